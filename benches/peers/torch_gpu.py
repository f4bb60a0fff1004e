"""What torch reaches on the card of the bench `gpu`: matrix products, attention, a copy; as Markdown rows.

    python torch_gpu.py
"""

import statistics
import time

import torch
from torch.nn.functional import scaled_dot_product_attention


def seconds(call) -> float:
    """Median seconds of one call."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(20):
            call()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - started) / 20)
    return statistics.median(times)


def main() -> None:
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}\n")
    print("| what | size | ms | rate |\n|---|---|---|---|")
    for n in (1024, 2048, 4096, 8192):
        for dtype in (torch.bfloat16, torch.float32):
            a, b = (torch.randn(n, n, device="cuda", dtype=dtype) for _ in range(2))
            s = seconds(lambda: a @ b.T)
            print(f"| product, {dtype} | {n} | {s * 1e3:.3f} | {2 * n**3 / s / 1e12:.1f} TFLOP/s |")
    for n, name in ((1 << 26, "256 MiB"), (1 << 28, "1 GiB")):
        x = torch.randn(n, device="cuda")
        y = torch.empty_like(x)
        s = seconds(lambda: y.copy_(x))
        print(f"| copy | {name} | {s * 1e3:.3f} | {2 * n * 4 / s / 1e9:.0f} GB/s |")
    w = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    v = torch.randn(1, 8192, device="cuda", dtype=torch.bfloat16)
    s = seconds(lambda: v @ w.T)
    print(f"| row times matrix, bf16 | 8192 | {s * 1e3:.3f} | {w.numel() * 2 / s / 1e9:.0f} GB/s |")
    for dtype in (torch.float32, torch.bfloat16):
        for n_q, n_k in ((2048, 2048), (1, 4096)):
            q = torch.randn(1, 32, n_q, 128, device="cuda", dtype=dtype)
            k, v = (torch.randn(1, 32, n_k, 128, device="cuda", dtype=dtype) for _ in range(2))
            s = seconds(lambda: scaled_dot_product_attention(q, k, v, is_causal=n_q > 1))
            print(f"| attention, 32 heads of 128, {dtype} | {n_q} over {n_k} | {s * 1e3:.3f} | |")


if __name__ == "__main__":
    main()
