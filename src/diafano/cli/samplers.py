"""`diafano samplers`: what can be asked for with --sampler and --schedule."""


def command() -> None:
    """List the samplers with their other names, order and cost per step, and the schedules."""
    from diafano.sampling.samplers.table import SAMPLERS
    from diafano.sampling.sigmas import SCHEDULES

    rows: list[tuple[str, ...]] = [("sampler", "label", "order", "cost", "noise", "schedule", "options", "other names")]
    for row in SAMPLERS.values():
        noise = "yes" if row.stochastic else "no"
        order = str(row.order) if row.order else "-"
        cost = str(row.evaluations_per_step)
        options, others = ", ".join(row.options) or "-", ", ".join(row.aliases)
        rows.append((row.name, row.label, order, cost, noise, row.schedule, options, others))
    _print(rows)
    print()
    _print(
        [
            ("schedule", "label", "other names"),
            *((row.name, row.label, ", ".join(row.aliases) or "-") for row in SCHEDULES.values()),
        ]
    )
    print()
    print("order: halving the steps divides the error by 2 to this power; cost: evaluations of the network per step;")
    print("noise: draws fresh noise as it goes; schedule: what --schedule automatic means for it.")


def _print(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
