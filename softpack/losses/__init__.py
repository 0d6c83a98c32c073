"""Losses between a student's logits and soft labels, as the recipes of the field have them.

    loss = softpack.losses.kl(student_BC, label_BC, temperature=20)

Labels are [B, C] as `labels.read` and `SoftLabelDataset` give them: logits, or rows of the space that
`spec=labels.spec` says. All losses but `logits_mse` take `labels.read_sparse(...)` by the same call:

| labels | what is compared | losses |
|---|---|---|
| rows [B, C] | every class; -inf is a class without probability | all |
| `SparseRows` with `fill_B` | every class: those that were not kept have equal shares | all |
| `SparseRows` with `tails` | the kept classes, and all others as one (see `kl`), where a tail is known | all |
| `SparseRows` that were drawn | the drawn classes, each by its share of the draws | `kl`, `soft_cross_entropy` |

A loss that needs what the labels do not have raises DataError and says what to do.

All is computed in float32 (float64 for a student in float64), under `torch.autocast` too, and is the mean over rows
in nats. A few rows are taken at a time, forwards and backwards: beside the student's logits, their gradient in the same
dtype, and labels that came as whole rows, no tensor of all rows and classes stands in memory. Labels carry no gradient,
and gradients cannot be differentiated again.

Positions of a language model are rows: `student_BTC.flatten(0, 1)`, and `mask_B` says which of them count.

Shapes in names: B rows, C classes; R rows of a block; K classes known of a row.
"""

from softpack.losses.divergences import js, kl, reverse_kl, soft_cross_entropy
from softpack.losses.schedule import temperature
from softpack.losses.squares import logits_mse

__all__ = ["js", "kl", "logits_mse", "reverse_kl", "soft_cross_entropy", "temperature"]
