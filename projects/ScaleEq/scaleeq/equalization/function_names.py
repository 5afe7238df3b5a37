"""Names of torch's functions, by what they do to values; of those that act in place without the underscore."""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


JOINS = _names("cat concat concatenate stack hstack")
SHAPES = _names("view reshape flatten unflatten view_as reshape_as squeeze unsqueeze ravel")
MOVES = SHAPES | _names(
    "getitem narrow select index_select gather take_along_dim chunk split split_with_sizes tensor_split unbind permute "
    "transpose movedim moveaxis swapaxes swapdims roll flip rot90 expand expand_as broadcast_to repeat "
    "repeat_interleave tile pad constant_pad_nd pixel_shuffle pixel_unshuffle channel_shuffle T mT"
)
RESIZINGS = _names("interpolate upsample upsample_bilinear upsample_nearest upsample_bilinear2d")
SPATIAL = RESIZINGS | _names("max_pool2d avg_pool2d grid_sample")
SIGMOIDS = _names("sigmoid hardsigmoid tanh hardtanh")
POINTWISE = SIGMOIDS | _names(
    "to type type_as float double half bfloat16 contiguous clone detach data requires_grad alias "
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout masked_fill "
    "relu relu6 leaky_relu rrelu elu celu selu gelu silu mish softplus softsign hardswish hardshrink softshrink "
    "tanhshrink threshold logsigmoid prelu abs neg negative square sqrt rsqrt reciprocal exp log log1p sin cos erf "
    "clamp clip clamp_min clamp_max nan_to_num positive"
)
PRODUCTS = _names("mul multiply imul rmul div divide true_divide truediv itruediv rtruediv rdiv")
SUMS = _names("add iadd radd sub subtract isub rsub addcmul addcdiv where lerp maximum minimum pow")
MIXES = _names(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear bilinear matmul mm bmm baddbmm "
    "addmm einsum tensordot scaled_dot_product_attention multi_head_attention_forward deform_conv2d"
)
REDUCTIONS = _names("sum mean amax amin max min prod norm std var logsumexp")
ONLY_SHAPES_READ = _names(
    "zeros_like ones_like empty_like full_like rand_like randn_like new_tensor new_zeros new_ones new_empty new_full"
)
