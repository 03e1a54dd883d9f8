// A node of libtorch's graph whose gradient is computed by a Rust function: see gradient.rs, the only caller.

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include <torch/csrc/autograd/custom_function.h>

namespace {

// The Rust function. It takes ownership of the saved tensors and of the gradients of the outputs, and writes one
// gradient for each input to `found`. On failure it returns a message that the caller frees, otherwise a null pointer.
using Backward = char *(*)(const void *state, at::Tensor **saved, size_t saved_count, at::Tensor **gradients,
                          size_t gradient_count, at::Tensor **found);
using Release = void (*)(void *state);

std::vector<at::Tensor *> handed(std::vector<at::Tensor> &tensors) {
    std::vector<at::Tensor *> pointers;
    for (auto &tensor : tensors) pointers.push_back(new at::Tensor(std::move(tensor)));
    return pointers;
}

struct Held : torch::CustomClassHolder {
    void *state;
    Backward backward;
    Release release;
    size_t inputs;

    Held(void *state, Backward backward, Release release, size_t inputs)
        : state(state), backward(backward), release(release), inputs(inputs) {}
    ~Held() override { release(state); }
};

struct Given : torch::autograd::Function<Given> {
    // libtorch does not treat tensors behind a pointer as inputs.
    static torch::autograd::variable_list forward(torch::autograd::AutogradContext *context, at::TensorList inputs,
                                                  std::vector<at::Tensor> *saved, std::vector<at::Tensor> *outputs,
                                                  c10::intrusive_ptr<Held> function) {
        (void)inputs;
        context->save_for_backward(std::move(*saved));
        context->saved_data["function"] = c10::IValue::make_capsule(std::move(function));
        return *outputs;
    }

    static torch::autograd::variable_list backward(torch::autograd::AutogradContext *context,
                                                   torch::autograd::variable_list gradients) {
        auto capsule = context->saved_data["function"].toCapsule();
        auto *function = static_cast<Held *>(capsule.get());
        auto saved = context->get_saved_variables();
        auto given = handed(saved), slopes = handed(gradients);
        std::vector<at::Tensor *> found(function->inputs, nullptr);
        char *failure =
            function->backward(function->state, given.data(), given.size(), slopes.data(), slopes.size(), found.data());
        if (failure != nullptr) {
            std::string text(failure);
            free(failure);
            throw std::runtime_error("the gradient of a koopflow layer: " + text);
        }
        torch::autograd::variable_list answer;
        for (auto *tensor : found) {
            answer.push_back(std::move(*tensor));
            delete tensor;
        }
        // `saved`, `outputs` and `function` have no gradient.
        answer.resize(function->inputs + 3);
        return answer;
    }
};

std::vector<at::Tensor> listed(at::Tensor *const *tensors, size_t count) {
    std::vector<at::Tensor> list;
    for (size_t place = 0; place < count; ++place) list.push_back(*tensors[place]);
    return list;
}

}  // namespace

// Writes the outputs, which now have a gradient, to `made`. On failure it returns a message that the caller frees.
// The graph releases `state` in either case.
extern "C" char *koopflow_with_gradient(at::Tensor *const *outputs, size_t output_count, at::Tensor *const *inputs,
                                        size_t input_count, at::Tensor *const *saved, size_t saved_count, void *state,
                                        Backward backward, Release release, at::Tensor **made) {
    try {
        auto function = c10::make_intrusive<Held>(state, backward, release, input_count);
        auto given = listed(outputs, output_count), all = listed(inputs, input_count), kept = listed(saved, saved_count);
        auto answer = Given::apply(at::TensorList(all), &kept, &given, std::move(function));
        for (size_t place = 0; place < output_count; ++place) made[place] = new at::Tensor(answer[place]);
        return nullptr;
    } catch (const std::exception &error) {
        return strdup(error.what());
    }
}
