"""Advice on what to mend where a rule failed, in a few words; ``docs/failed_rules.md`` has a section on each."""

DERIVATIVE = "mend the backward: it is not the derivative"  # of every rule that judges a first-order gradient

MEND = {
    **dict.fromkeys(
        ("gradient", "JVP-VJP product", "finite differences", "Taylor test", "gradcheck", "reference"), DERIVATIVE
    ),
    "output": "mend the forward, or the reference",
    "precision": "compute in the dtype of the inputs: no .float() and no constants of float32 on the way",
    "uninitialised memory": "write every element of what torch.empty or empty_like gives, or use torch.zeros_like",
    "upstream gradient": "multiply by the upstream gradient as it is: no branch on its values, no clipping, no eps",
    "upstream layout": "read the upstream gradient by its strides, or call .contiguous() on it first",
    "undefined upstream": "take an upstream gradient of None for zeros (ctx.set_materialize_grads(True), the default)",
    "input layout": "read inputs by their strides, or call .contiguous() on them first",
    "mutation": "write into a clone; for an input that the forward is to change, ctx.mark_dirty(it)",
    "replay": "keep what the backward needs on ctx, by save_for_backward, and nowhere else",
    "random numbers": "save the mask, or the generators' states, which the backward sets in torch.random.fork_rng()",
    "changed input": "keep inputs by ctx.save_for_backward, which notices that they were changed",
    "same tensor twice": "write no gradient into a saved input, and tell inputs by place, not by identity",
    "needs_input_grad": "return each gradient in its input's place, None only where ctx.needs_input_grad[i] is False",
    "double backward": "add @once_differentiable to the backward (from torch.autograd.function)",
    "jvp": "mend the Function's jvp: the sum over its inputs of derivative times tangent",
    "vmap": "mend the Function's vmap: move each input's in_dims to one place, None meaning not batched",
    "autocast": "add @torch.amp.custom_fwd(device_type=…) to the forward and @torch.amp.custom_bwd(…) to the backward",
    "special values": "give zeros, ties and large numbers a branch or a form that neither divides by 0 nor overflows",
    "batch size": "treat the remainder of a tile, a single row and an empty batch like the rest",
    "size": "treat the remainder of a tile and a size of one like the rest",
    "opcheck": "register_fake with the real kernel's shapes, dtypes and strides; mutates_args with what it writes into",
    "compiled": 'narrow it down by backend="aot_eager", then "eager"; until then keep it out by torch.compiler.disable',
    "sharded": "look for a reduction over the ranks that is missing, doubled, or of a sum for a mean",
    "backward": "mend what raises: one gradient of its input's shape, or None, for each argument of the forward",
}
