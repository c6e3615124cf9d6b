"""The losses, forward and backward, against plain BCE and against mmdet's Seesaw and EQLv2.

Every loss is called as a bbox head calls it, with a quarter of the proposals foreground, LVIS v1's
frequencies (--categories repeats or cuts them), and labels drawn by them. "BCE" is torch's
binary_cross_entropy_with_logits with ready-made dense targets. All take turns, --repeats times;
what is printed are medians and the middle half of the times.

"Extra memory" is what forward and backward take at their peak beyond what was there before, the
gradient included, divided by the size of the logits. "Operations" are the calls that work on values
(on a GPU about as many launches), "of size N x C" those that read or write arrays of at least half
the logits' bytes, "N x C written" how many such arrays they write, and "syncs" the calls for which
the program would have to wait for a GPU. They are counted without one; BCE's, which torch's
dispatcher takes for one, by torch.profiler. --compile counts the kernels that torch.compile makes
of forward and backward, all of them, here for the CPU; it needs a C++ compiler and some minutes.

Examples:
  python benchmarks/losses.py                                      # 1024 x 1203, and how it grows
  python benchmarks/losses.py --proposals 512 --categories 1230 --no-growth
  python benchmarks/losses.py --compile --no-growth
  python benchmarks/losses.py --device cuda
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable

from common import (
    Measurement,
    add_device_option,
    at_least,
    in_fresh_process,
    limit_threads,
    make_parser,
    ratio,
    report,
    table,
)

#: What the others are divided by.
BASE = "BCE"
OURS = ("SigmoidBCELoss", "EQL", "BEQL", "FixedDropLoss", "DropLoss")
PEERS = ("SeesawLoss", "EQLV2Loss")


class Setting:
    """Logits, labels and losses of a size."""

    def __init__(self, proposals: int, categories: int, device: str) -> None:
        import torch

        from mmdet_droploss.annotations import load_class_frequency

        self.device = device
        counts = load_class_frequency("lvis_v1").image_count.tolist()
        self.counts = (counts * math.ceil(categories / len(counts)))[:categories]
        generator = torch.Generator().manual_seed(0)
        foreground = proposals // 4
        labels = torch.full((proposals,), categories)
        labels[:foreground] = torch.multinomial(
            torch.tensor(self.counts, dtype=torch.float), foreground, True, generator=generator
        )
        order = torch.randperm(proposals, generator=generator)
        self.labels = labels[order].to(device)
        self.logits = (torch.randn(proposals, categories, generator=generator) - 5).to(device)
        targets = torch.nn.functional.one_hot(self.labels, categories + 1)
        self.targets = targets[:, :categories].float()

    @property
    def shape(self) -> tuple[int, int]:
        """(N, C)."""
        return tuple(self.logits.shape)

    def step(self, name: str) -> Callable[[], object]:
        """Forward and backward of a loss."""
        import torch

        leaf = self.leaf(name)
        value = self.loss(name)

        def run() -> object:
            leaf.grad = None
            loss = value(leaf.view_as(leaf))  # in a head they come out of a layer, too
            loss.backward()
            if self.device == "cuda":
                torch.cuda.synchronize()
            return loss

        return run

    def leaf(self, name: str) -> object:
        """The logits a loss is called with, whose gradient is wanted."""
        import torch

        more = {"SeesawLoss": 2, "EQLV2Loss": 1}.get(name, 0)  # object and background outputs
        padding = self.logits.new_full((len(self.logits), more), -5.0)
        return torch.cat([self.logits, padding], dim=1).requires_grad_()

    def loss(self, name: str) -> Callable[[object], object]:
        """A loss as a function of the logits."""
        import torch.nn.functional as F
        from mmdet.registry import MODELS

        if name == BASE:
            return lambda logits: (
                F.binary_cross_entropy_with_logits(logits, self.targets, reduction="sum")
                / len(logits)
            )
        config = {"type": name, "num_classes": self.shape[1]}
        if name in OURS:
            config["class_freq"] = self.counts
        if name == "FixedDropLoss":
            config["drop_ratio"] = 0.5
        loss = MODELS.build(config).to(self.device)
        if name in OURS:
            loss._is_first_step = False  # in which it looks at the logits
        weights = self.logits.new_ones(len(self.logits))
        if name == "SeesawLoss":
            return lambda logits: sum(
                loss(logits, self.labels, weights, avg_factor=len(logits))[key]
                for key in ("loss_cls_objectness", "loss_cls_classes")
            )
        return lambda logits: loss(logits, self.labels, weights, avg_factor=len(logits))


def seconds_of(steps: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Times of the steps, which take turns, so that a noisy moment strikes all of them."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            step()  # brings its own arrays into the caches, as a loop of one loss would
            begin = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - begin)
    return times


def quartiles(times: list[float]) -> tuple[float, float, float]:
    """The median between the ends of the middle half."""
    if len(times) < 2:
        return times[0], times[0], times[0]
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return low, median, high


def operations_of(step: Callable[[], object], size: int) -> dict[str, float]:
    """What a step asks of the device, by torch's dispatcher: forward and backward."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    aten = torch.ops.aten
    allocating = {aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten.detach}
    few_elements = {aten.gather, aten.scatter_, aten.index}  # of a large array
    waiting = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2}

    class Count(TorchDispatchMode):
        operations = large = written = syncs = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            packet = func.overloadpacket
            if func.is_view or packet in allocating:
                return result
            self.operations += 1
            self.syncs += packet in waiting
            if packet not in few_elements:
                outputs, inputs = (
                    [
                        leaf.numel() * leaf.element_size()
                        for leaf in tree_leaves(tree)
                        if is_array(leaf)
                    ]
                    for tree in (result, (args, kwargs))
                )
                self.large += max(outputs + inputs, default=0) >= size / 2
                self.written += sum(n for n in outputs if n >= size / 2) / size
            return result

    def is_array(leaf: object) -> bool:
        return isinstance(leaf, torch.Tensor)

    with Count() as count:
        step()
    return {key: getattr(count, key) for key in ("operations", "large", "written", "syncs")}


def operations_inside(step: Callable[[], object], size: int) -> dict[str, float]:
    """The same by torch.profiler, of a step on the CPU whose operations consist of others.

    An elementary one has the size of its largest input, and writes as much unless it is a sum.
    """
    from torch.profiler import ProfilerActivity, profile

    no_work = ("view", "reshape", "detach", "empty", "as_strided", "select", "unsqueeze", "expand")
    helpers = ("fill_", "copy_", "to", "_to_copy")
    found: list[tuple[str, float]] = []

    def kind(event) -> str:
        return event.name.removeprefix("aten::")

    def walk(event) -> bool:
        """Note the elementary operations in an event; whether there is one beside helpers."""
        if kind(event).startswith(no_work):
            return False
        before = len(found)
        more = [walk(child) for child in event.cpu_children]
        if event.name.startswith("aten::") and not any(more):
            del found[before:]
            largest = max((math.prod(shape) for shape in event.input_shapes), default=0)
            found.append((kind(event), 4 * largest))
            return kind(event) not in helpers
        return any(more)

    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        step()
    for event in profiler.events():
        if event.cpu_parent is None:
            walk(event)
    large = [name for name, bytes_ in found if bytes_ >= size / 2]
    written = sum(name != "sum" for name in large)
    return {"operations": len(found), "large": len(large), "written": written, "syncs": 0}


def count(name: str, shape: tuple[int, int]) -> dict[str, float]:
    """Operations of a loss, on torch's meta device, where there are no values to wait for.

    The peers do look at values: they are counted on the CPU.
    """
    import torch

    size = 4 * math.prod(shape)
    device = "cpu" if name in (BASE, *PEERS) else "meta"
    setting = Setting(*shape, device)
    step = setting.step(name)
    with torch.random.fork_rng():
        step()
        return (operations_inside if name == BASE else operations_of)(step, size)


def compiled_kernels(name: str, shape: tuple[int, int]) -> int:
    """How many kernels torch.compile makes of a loss's forward and backward."""
    import torch
    from torch._inductor import metrics

    torch.compiler.reset()
    metrics.reset()
    setting = Setting(*shape, "cpu")
    leaf = setting.leaf(name)
    torch.compile(setting.loss(name), fullgraph=True)(leaf.view_as(leaf)).backward()
    return metrics.generated_kernel_count


def memory_of(name: str, shape: tuple[int, int], device: str) -> float:
    """Peak memory of a step beyond what was there before, in arrays of the logits' size."""
    import torch

    size = 4 * math.prod(shape)
    Setting(64, shape[1], device).step(name)()  # loads what is loaded at the first use
    step = Setting(*shape, device).step(name)
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (torch.cuda.max_memory_allocated() - before) / size
    with Measurement() as measurement:
        step()
    return measurement.peak / size


def memory_of_all(names: tuple[str, ...], shape: tuple[int, int], device: str) -> dict:
    """The same for several losses, in a process that has not measured anything before."""
    return {name: memory_of(name, shape, device) for name in names}


def main_rows(args: argparse.Namespace) -> tuple[list[list[object]], dict]:
    """The table at one size."""
    shape = (args.proposals, args.categories)
    setting = Setting(*shape, args.device)
    names = (BASE, *OURS, *PEERS)
    times = seconds_of({name: setting.step(name) for name in names}, args.repeats)
    rows, numbers = [], {}
    base = statistics.median(times[BASE])
    slowest = {peer: statistics.median(times[peer]) for peer in PEERS}
    memory_shape = (args.memory_proposals, args.categories)
    memory = in_fresh_process(memory_of_all, names, memory_shape, args.device)
    for name in names:
        low, median, high = quartiles(times[name])
        counts = {**count(name, shape), "memory": memory[name]}
        numbers[name] = {"seconds": median, "low": low, "high": high, **counts}
        rows.append(
            [
                name,
                f"{1e3 * median:.2f}",
                f"{1e3 * low:.2f} to {1e3 * high:.2f}",
                ratio(median, base, 2),
                *(ratio(median, seconds, 2) for seconds in slowest.values()),
                f"{counts['memory']:.1f}",
                counts["operations"],
                counts["large"],
                f"{counts['written']:.1f}",
                counts["syncs"],
            ]
        )
    return rows, numbers


def growth_rows(args: argparse.Namespace) -> tuple[list[list[object]], dict]:
    """Nanoseconds a logit at several sizes."""
    sizes = [(n, args.categories) for n in (1024, 4096, 16384)]
    sizes += [(args.proposals, c) for c in (100, 1203, 10000)]
    rows, numbers = [], {}
    for shape in dict.fromkeys(sizes):
        setting = Setting(*shape, args.device)
        names = (BASE, "EQL", "BEQL", "DropLoss")
        times = seconds_of({name: setting.step(name) for name in names}, max(args.repeats // 4, 1))
        per_logit = {n: 1e9 * statistics.median(t) / math.prod(shape) for n, t in times.items()}
        numbers[str(shape)] = per_logit
        rows.append([f"{shape[0]} x {shape[1]}", *(f"{value:.2f}" for value in per_logit.values())])
    return rows, numbers


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--proposals", type=at_least(4), default=1024, metavar="N", help="rows (%(default)s)"
    )
    parser.add_argument(
        "--categories", type=at_least(2), default=1203, metavar="C", help="columns (%(default)s)"
    )
    parser.add_argument(
        "--memory-proposals",
        type=at_least(4),
        default=8192,
        metavar="N",
        help="rows for the memory, which is measured as the process's (%(default)s)",
    )
    add_device_option(parser)
    parser.add_argument("--repeats", type=at_least(1), default=100, help="turns (%(default)s)")
    parser.add_argument("--compile", action="store_true", help="count the kernels of torch.compile")
    parser.add_argument("--no-growth", action="store_true", help="one size only")
    args = parser.parse_args()
    threads = limit_threads()
    import torch

    warnings.filterwarnings("ignore", message="every category|no category|.*low frequency")
    torch.set_num_threads(threads)
    rows, numbers = main_rows(args)
    header = [
        *("forward and backward", "ms (median)", "middle half", f"/ {BASE}"),
        *(f"/ {peer}" for peer in PEERS),
        *("extra memory", "operations", "of size N x C", "N x C written", "syncs"),
    ]
    text = (
        f"{args.proposals} x {args.categories} on {args.device}, at most {threads} threads, "
        f"{args.repeats} turns; memory at {args.memory_proposals} x {args.categories}\n\n"
        f"{table(header, rows)}"
    )
    found = {"losses": numbers}
    if args.compile:
        found["compiled"] = {
            name: compiled_kernels(name, (args.proposals, args.categories))
            for name in (BASE, *OURS)
        }
        text += f"\n\n{table(['', 'kernels if compiled'], found['compiled'].items())}"
    if not args.no_growth:
        rows, found["growth"] = growth_rows(args)
        text += f"\n\n{table(['ns a logit', BASE, 'EQL', 'BEQL', 'DropLoss'], rows)}"
    report(args, text, found)


if __name__ == "__main__":
    main()
