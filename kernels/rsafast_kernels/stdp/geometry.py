"""Shape of the layer that a rule acts on; a dense layer is a 1 x 1 convolution of 1 x 1 maps."""

from dataclasses import dataclass

from rsafast_kernels.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Geometry:
    """A convolution: weight (G * Cout, Cin, kh, kw) on maps (H, W) -> (H', W')."""

    weight_shape: tuple[int, int, int, int]
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1

    @property
    def is_dense(self) -> bool:
        """Whether the layer has no space: one position in and one out."""
        return self.in_size == self.out_size == self.weight_shape[2:] == (1, 1)

    def positions(self, axis: int, side: str) -> list[list[int]]:
        """Return, for each kernel offset and each position of `side`, the other side's; -1: none.

        `axis` is 0 for rows, 1 for columns.
        """
        stride, padding = self.stride[axis], self.padding[axis]
        table = []
        for offset in range(self.weight_shape[2 + axis]):
            to_input = [o * stride - padding + offset for o in range(self.out_size[axis])]
            if side == "post":
                table.append([i if 0 <= i < self.in_size[axis] else -1 for i in to_input])
            else:
                back = {i: o for o, i in enumerate(to_input)}
                table.append([back.get(i, -1) for i in range(self.in_size[axis])])
        return table


def pair(value: int | tuple[int, int], name: str, least: int) -> tuple[int, int]:
    """Return `value` as (rows, columns)."""
    both = (value, value) if isinstance(value, int) else tuple(value)
    if len(both) != 2 or any(not isinstance(v, int) or v < least for v in both):
        raise InvalidInputError(
            f"{name} must be an integer of at least {least}, or a pair of them, got {value!r}"
        )
    return both[0], both[1]
