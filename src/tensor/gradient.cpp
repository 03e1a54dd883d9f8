// A node of libtorch's graph whose gradient is computed by a Rust function: see gradient.rs, the only caller.

#include <cstring>
#include <stdexcept>
#include <vector>

#include <torch/csrc/autograd/custom_function.h>

namespace {

// The Rust function: takes the saved tensors and the gradient of the output, both its own from then on, and writes
// one gradient for each input. False where it failed.
using Backward = bool (*)(const void *state, at::Tensor **saved, size_t count, at::Tensor *gradient, at::Tensor **found);
using Release = void (*)(void *state);

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
    // What is behind a pointer is no input to libtorch.
    static at::Tensor forward(torch::autograd::AutogradContext *context, at::TensorList inputs,
                              std::vector<at::Tensor> *saved, const at::Tensor *output,
                              c10::intrusive_ptr<Held> function) {
        (void)inputs;
        context->save_for_backward(std::move(*saved));
        context->saved_data["function"] = c10::IValue::make_capsule(std::move(function));
        return *output;
    }

    static torch::autograd::variable_list backward(torch::autograd::AutogradContext *context,
                                                   torch::autograd::variable_list gradients) {
        auto capsule = context->saved_data["function"].toCapsule();
        auto *function = static_cast<Held *>(capsule.get());
        auto saved = context->get_saved_variables();
        std::vector<at::Tensor *> given;
        for (auto &tensor : saved) given.push_back(new at::Tensor(std::move(tensor)));
        std::vector<at::Tensor *> found(function->inputs, nullptr);
        auto *gradient = new at::Tensor(gradients[0]);
        if (!function->backward(function->state, given.data(), given.size(), gradient, found.data()))
            throw std::runtime_error("the gradient of a koopflow layer cannot be computed");
        torch::autograd::variable_list answer;
        for (auto *tensor : found) {
            answer.push_back(std::move(*tensor));
            delete tensor;
        }
        // Of `saved`, `output` and `function` there is none.
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

// Answers the output with its gradient, or null and a message that the caller frees. `state` is released by the graph
// in either case.
extern "C" at::Tensor *koopflow_with_gradient(const at::Tensor *output, at::Tensor *const *inputs, size_t input_count,
                                              at::Tensor *const *saved, size_t saved_count, void *state,
                                              Backward backward, Release release, char **message) {
    try {
        auto function = c10::make_intrusive<Held>(state, backward, release, input_count);
        auto all = listed(inputs, input_count), kept = listed(saved, saved_count);
        return new at::Tensor(Given::apply(at::TensorList(all), &kept, output, std::move(function)));
    } catch (const std::exception &error) {
        *message = strdup(error.what());
        return nullptr;
    }
}
