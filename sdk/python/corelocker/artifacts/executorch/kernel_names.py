"""Portable kernels of ExecuTorch by what they do to channels, by their ATen names without an overload."""

from __future__ import annotations

# Element by element: the result has the operands' shape, broadcast.
POINTWISE = {
    "abs", "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "bitwise_and", "bitwise_not", "bitwise_or",
    "bitwise_xor", "ceil", "clamp", "cos", "cosh", "div", "elu", "eq", "erf", "exp", "expm1", "floor", "floor_divide", "fmod",
    "ge", "gelu", "gt", "hardsigmoid", "hardswish", "hardtanh", "isinf", "isnan", "le", "leaky_relu", "log", "log10", "log1p",
    "log2", "logical_and", "logical_not", "logical_or", "logical_xor", "logit", "lt", "masked_fill", "maximum", "minimum",
    "mish", "mul", "ne", "neg", "pow", "prelu", "_prelu_kernel", "reciprocal", "relu", "relu6", "remainder", "round", "rsqrt",
    "rsub", "selu", "sigmoid", "sign", "silu", "sin", "sinh", "softplus", "sqrt", "square", "sub", "tan", "tanh", "threshold",
    "trunc", "where", "_softmax", "_log_softmax", "softmax", "log_softmax", "safe_softmax", "_safe_softmax", "cumsum",
    "native_dropout", "dropout", "quantize_per_tensor", "quantize_per_channel", "quantize_per_token", "quantize_affine",
    "dequantize_per_token", "fake_quantize_per_channel_affine",
}  # fmt: skip
COPIES = {
    "alias_copy", "clone", "_clone_dim_order", "contiguous", "detach_copy", "et_view", "flatten", "lift_fresh_copy", "_to_copy",
    "_to_dim_order_copy", "reshape", "squeeze", "squeeze_copy", "unsqueeze", "unsqueeze_copy", "unsafe_view", "_unsafe_view",
    "view", "view_copy", "_reshape_alias_copy", "unflatten", "empty_permuted",
}  # fmt: skip
SAMPLERS = {
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d", "max_pool1d", "max_pool2d", "max_pool2d_with_indices", "max_pool3d", "max_pool3d_with_indices",
    "adaptive_max_pool2d", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
    "replication_pad2d", "replication_pad3d", "upsample_bilinear2d", "upsample_nearest2d", "upsample_bicubic2d",
    "upsample_linear1d", "upsample_nearest1d", "grid_sampler_2d",
}  # fmt: skip
REDUCERS = {
    "all", "amax", "amin", "any", "argmax", "argmin", "max", "mean", "median", "min", "prod", "std", "sum", "var", "var_mean",
}  # fmt: skip
FRESH = {
    "arange",
    "empty",
    "empty_like",
    "full",
    "full_like",
    "ones",
    "ones_like",
    "rand",
    "randn",
    "scalar_tensor",
    "zeros",
    "zeros_like",
}
BATCH_NORMS = {"_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "native_batch_norm", "batch_norm"}
OTHER_NORMS = {"native_layer_norm": 2, "native_group_norm": 1, "layer_norm": 2, "group_norm": 2, "rms_norm": 2}
