"""The text of a compiled program says which bytes cross the main memory, and what the compiler expects."""

from benchmarks.compiled_text import estimated_cycles, main_memory_bytes

# As libtpu 0.0.42.1 writes it, shortened. S(1) is the fast memory.
TEXT = """HloModule jit_f, is_scheduled=true

%fused_computation (p: bf16[8,4]) -> bf16[8,4] {
  %p = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %convolution.1 = bf16[8,4]{1,0} convolution(%p, %p), backend_config={"estimated_cycles":"700"}
}

ENTRY %main (a: bf16[8,4], k: f32[16]) -> bf16[8,4] {
  %a = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  %k = f32[16]{0:T(128)} parameter(1)
  %copy-start = (f32[16]{0:T(128)S(1)}, f32[16]{0:T(128)}, u32[]{:S(2)}) copy-start(%k)
  %copy-done = f32[16]{0:T(128)S(1)} copy-done(%copy-start)
  %fusion = (bf16[8,4]{1,0:T(8,128)(2,1)S(1)}, pred[8]{0:T(128)}) fusion(%a, %copy-done), kind=kOutput, \
calls=%fused_computation, backend_config={"window_config":{"estimated_cycles":"700"}}
  %get-tuple-element = bf16[8,4]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%fusion), index=0
  ROOT %copy.1 = bf16[8,4]{1,0:T(8,128)(2,1)} copy(%get-tuple-element), \
backend_config={"estimated_cycles":"30"}
}
"""


def test_only_accesses_to_the_main_memory_count():
    kernel = 128 * 4  # 16 values in a tile of 128; read once, by the copy to the fast memory
    image = result = 8 * 128 * 2  # 8 x 4 values in a tile of 8 x 128
    flags = 128
    assert main_memory_bytes(TEXT) == kernel + image + flags + result


def test_the_estimate_of_a_fusion_counts_once():
    assert estimated_cycles(TEXT) == 730


def test_an_operation_without_an_estimate_counts_nothing():
    unknown = TEXT.replace('"estimated_cycles":"30"', f'"estimated_cycles":"{2**62 - 1}"')
    assert estimated_cycles(unknown) == 700
