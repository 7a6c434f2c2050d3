"""Makes the converter's ONNX models smaller and their scores more exact, with the same operators."""

from typing import Any

import numpy as np

IR_VERSION = 8  # that of opset 18; the converter writes 10, which onnxruntime 1.16 refuses


def rewrite(model: Any) -> Any:
    """An `onnx.ModelProto` of opset 18 that computes the same: means are exact, no weight is stored twice."""
    import onnx_ir
    from onnx_ir.passes.common import DeduplicateHashedInitializersPass, RemoveUnusedNodesPass

    _split_means(model)
    found = onnx_ir.from_proto(model)
    # The converter stores a weight once for each of its uses.
    DeduplicateHashedInitializersPass()(found)
    RemoveUnusedNodesPass()(found)  # and initializers
    rewritten = onnx_ir.to_proto(found)
    rewritten.ir_version = IR_VERSION
    return rewritten


def _split_means(model: Any) -> None:
    """Makes a mean over several axes from means over one axis after another.

    onnxruntime adds all numbers of a mean one after another in float32. Over a whole image of 64 x 64 pixels,
    that loses digits: the scores of a distance that subtracts the mean were off by 4e-5 to 1e-4.
    """
    from onnx import helper, numpy_helper

    constants = {x.name: x for x in model.graph.initializer if x.data_type == helper.TensorProto.INT64}
    nodes = []
    for node in model.graph.node:
        constant = constants.get(node.input[1]) if node.op_type == "ReduceMean" and node.input[1:] else None
        axes = [] if constant is None else sorted(np.ravel(numpy_helper.to_array(constant)), reverse=True)
        if len(axes) < 2 or min(axes) < 0:
            nodes.append(node)
            continue
        source = node.input[0]
        for place, axis in enumerate(axes):  # the last axis first, so that the numbers of the others stay
            result = node.output[0] if axis == axes[-1] else f"{node.output[0]}_mean_{place}"
            name = f"{node.output[0]}_axis_{place}"
            model.graph.initializer.append(numpy_helper.from_array(np.array([axis], np.int64), name))
            mean = helper.make_node("ReduceMean", [source, name], [result], f"{node.name}_{place}")
            mean.attribute.extend(node.attribute)
            nodes.append(mean)
            source = result
    del model.graph.node[:]
    model.graph.node.extend(nodes)
