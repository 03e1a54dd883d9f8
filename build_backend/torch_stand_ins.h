// Stand-ins for functions that torch-sys wraps and that newer torch versions no longer have. This header is
// included first when torch-sys is compiled for such a version. koopflow calls none of the functions; a call
// raises an error.
#if defined(__cplusplus) && __has_include(<torch/torch.h>)
#include <stdexcept>
#include <string>
#include <torch/torch.h>

namespace torch {
[[noreturn]] inline Tensor gone(const char *name) {
    throw std::runtime_error(std::string(name) + " is gone from torch " TORCH_VERSION);
}
#if !__has_include(<ATen/ops/qr.h>)
inline std::tuple<Tensor, Tensor> qr(const Tensor &, bool) { gone("qr"); }
inline std::tuple<Tensor, Tensor> qr_out(Tensor &, Tensor &, const Tensor &, bool) { gone("qr_out"); }
#endif
#if !__has_include(<ATen/ops/cholesky.h>)
inline Tensor cholesky(const Tensor &, bool) { gone("cholesky"); }
inline Tensor cholesky_out(Tensor &, const Tensor &, bool) { gone("cholesky_out"); }
#endif
#if !__has_include(<ATen/ops/align_tensors.h>)
inline std::vector<Tensor> align_tensors(TensorList) { gone("align_tensors"); }
#endif
} // namespace torch

#if !__has_include(<ATen/ops/align_as.h>)
#define align_as(other) view_as(torch::gone("align_as")) // a method of Tensor
#endif
#endif
