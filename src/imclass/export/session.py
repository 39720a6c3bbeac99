"""ONNX file -> a session of ONNX Runtime; nothing here loads PyTorch."""

from typing import Any


def start_session(content: bytes, *, threads: int, keep_memory: bool = True) -> Any:
    """An onnxruntime.InferenceSession on the CPU. It keeps what its largest pictures took, or gives it back."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = keep_memory
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
