"""`RDMs`: a stack of dissimilarity matrices over one set of stimuli, checked once and immutable."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from rsafast import _condensed
from rsafast._condensed import FloatArray
from rsafast.errors import BackendUnavailableError, InvalidInputError

Label: TypeAlias = str | int
Missing: TypeAlias = Literal["error", "allow"]
Selection: TypeAlias = "int | str | slice | Sequence[Any] | NDArray[Any]"

# Columns of `to_dataframe`; a descriptor of the same name would hide one of them.
_RESERVED = ("name", "rdm", "dissimilarity", "stimulus_1", "stimulus_2")
# Pattern descriptors of rsatoolbox that usually identify stimuli, most specific first.
_LABEL_DESCRIPTORS = ("label", "labels", "stimulus", "stimuli", "stim", "conds", "condition")


class RDMs:
    """A stack of representational dissimilarity matrices (RDMs) over the same stimuli.

    Parameters
    ----------
    dissimilarities : array of real numbers
        ``(k, pairs)``, ``(k, n, n)``, ``(pairs,)`` or ``(n, n)``; pairs = n(n-1)/2 and n >= 4.
        Vectors are in :func:`scipy.spatial.distance.squareform` order (upper triangle, row by
        row). A square 2-D array is one matrix; only where its side is also a number of pairs
        (6, 10, 15, ...) could it be a stack of vectors, and it is read as one when it is neither
        symmetric nor zero on the diagonal. An array that is just one of the two raises;
        :meth:`from_vectors` never reads a matrix.
    labels : sequence of n unique str or int, optional
        Stimulus ids. Where both sides of a comparison have them they are matched by value.
    names : sequence of k str, optional
        One name an RDM, by default ``"rdm 0"``, ``"rdm 1"``, ...; they need not be unique.
    measure : str, optional
        What was measured, for example ``"correlation"``.
    descriptors : mapping of str to sequence of k str, int, float or bool, optional
        What else is known of each RDM, for example ``{"subject": [1, 2], "roi": ["V1", "IT"]}``.
    missing : {"error", "allow"}
        "allow" makes NaN a missing pair; by default NaN raises. Infinities always raise.

    Raises
    ------
    InvalidInputError
        For a wrong shape, dtype or count; for matrices that are not symmetric with a zero diagonal
        (to 1e-8 of the largest value, 8 machine epsilons for float32; what asymmetry is left
        inside that is averaged away); for NaN and infinities.

    Examples
    --------
    >>> rdms = RDMs([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]], labels=["cat", "dog", "car", "bus"])
    >>> rdms
    RDMs(1 RDM, 4 stimuli 'cat' ... 'bus')
    >>> rdms.reorder(["dog", "cat", "car", "bus"]).vectors
    array([[1., 4., 5., 2., 3., 6.]])
    """

    __slots__ = ("_descriptors", "_labels", "_measure", "_missing", "_n", "_names", "_vectors")

    _vectors: FloatArray
    _n: int
    _labels: tuple[Label, ...] | None
    _names: tuple[str, ...]
    _measure: str | None
    _descriptors: Mapping[str, NDArray[Any]]
    _missing: Missing

    def __init__(
        self,
        dissimilarities: ArrayLike,
        labels: Sequence[Label] | NDArray[Any] | None = None,
        names: Sequence[str] | str | None = None,
        measure: str | None = None,
        descriptors: Mapping[str, Any] | None = None,
        *,
        missing: Missing = "error",
    ) -> None:
        vectors = _condensed.condense(dissimilarities)
        self._fill(vectors, labels, names, measure, descriptors, missing)

    @classmethod
    def from_vectors(
        cls,
        vectors: ArrayLike,
        labels: Sequence[Label] | NDArray[Any] | None = None,
        names: Sequence[str] | str | None = None,
        measure: str | None = None,
        descriptors: Mapping[str, Any] | None = None,
        *,
        missing: Missing = "error",
    ) -> RDMs:
        """Make RDMs of condensed vectors (k, pairs), which are never read as one matrix."""
        checked = _condensed.checked_vectors(_condensed.as_real_array(vectors))
        return cls._build(checked, labels, names, measure, descriptors, missing)

    @classmethod
    def _build(
        cls,
        vectors: FloatArray,
        labels: Any,
        names: Any,
        measure: str | None,
        descriptors: Mapping[str, Any] | None,
        missing: Missing,
    ) -> RDMs:
        """Make an object around `vectors`, which nobody else holds."""
        new = object.__new__(cls)
        new._fill(vectors, labels, names, measure, descriptors, missing)
        return new

    def _fill(
        self,
        vectors: FloatArray,
        labels: Any,
        names: Any,
        measure: str | None,
        descriptors: Mapping[str, Any] | None,
        missing: Missing,
    ) -> None:
        n = _condensed.n_from_pairs(vectors.shape[1])
        if n is None or missing not in ("error", "allow"):
            raise InvalidInputError(f"missing must be 'error' or 'allow', got {missing!r}")
        if measure is not None and not isinstance(measure, str):
            raise InvalidInputError(f"measure must be a str or None, got {measure!r}")
        self._n = n
        self._labels = checked_labels(labels, n)
        self._names = _checked_names(names, len(vectors))
        self._measure = measure
        self._descriptors = _checked_descriptors(descriptors or {}, len(vectors))
        self._missing = missing
        _check_finite(vectors, self._names, self._labels, n, missing)
        vectors.flags.writeable = False
        self._vectors = vectors

    def __reduce__(self) -> tuple[Any, ...]:
        return self._build, (
            self._vectors.copy(), self._labels, self._names, self._measure,
            dict(self._descriptors), self._missing,
        )  # fmt: skip

    @property
    def n_rdms(self) -> int:
        """Number of RDMs, k."""
        return len(self._vectors)

    @property
    def n_stimuli(self) -> int:
        """Number of stimuli, n."""
        return self._n

    @property
    def vectors(self) -> FloatArray:
        """Condensed dissimilarities (k, n(n-1)/2), float64, C-contiguous, read-only."""
        return self._vectors

    @property
    def labels(self) -> tuple[Label, ...] | None:
        """Stimulus ids, all str or all int, or None."""
        return self._labels

    @property
    def names(self) -> tuple[str, ...]:
        """One name an RDM."""
        return self._names

    @property
    def measure(self) -> str | None:
        """What the dissimilarities measure, or None."""
        return self._measure

    @property
    def descriptors(self) -> Mapping[str, NDArray[Any]]:
        """Read-only mapping of descriptor name to k values."""
        return self._descriptors

    @property
    def missing(self) -> Missing:
        """What NaN means: "error" (there is none) or "allow" (a missing pair)."""
        return self._missing

    @property
    def has_missing(self) -> bool:
        """Whether any pair is missing (NaN)."""
        return self._missing == "allow" and bool(np.isnan(self._vectors).any())

    def matrices(self) -> FloatArray:
        """Square matrices (k, n, n), float64, newly made; the diagonal is zero."""
        return _condensed.expand(self._vectors, self._n)

    def reorder(self, labels: Sequence[Label]) -> RDMs:
        """Put the stimuli into the order of `labels`, which holds every label once.

        Raises
        ------
        InvalidInputError
            Where this object has no labels, or `labels` is not a reordering of them.
        """
        wanted = checked_labels(labels, self._n)
        if wanted is None or self._labels is None:
            raise InvalidInputError("reorder needs labels on both sides; pass labels= to RDMs")
        if wanted == self._labels:
            return self
        _check_same_labels(wanted, self._labels, "the new order", "this RDM")
        place = {label: i for i, label in enumerate(self._labels)}
        return self._with_stimuli(np.array([place[label] for label in wanted], dtype=np.int64))

    def subset(
        self,
        rdms: Selection | Mapping[str, Any] | None = None,
        stimuli: Selection | None = None,
    ) -> RDMs:
        """Keep some RDMs, some stimuli, or both, in the order asked for.

        Parameters
        ----------
        rdms : int, str, slice, sequence, boolean mask or mapping, optional
            Positions, names (every RDM of that name), k booleans, or a mapping of descriptor to
            the value or values wanted, all of which must hold:
            ``{"roi": "V1", "subject": [1, 2]}``.
        stimuli : int, str, slice, sequence or boolean mask, optional
            Labels, or positions where there are no integer labels; a slice or n booleans always
            go by position. No stimulus twice, at least 4.

        Raises
        ------
        InvalidInputError
            For a name, label, position or descriptor that is not there, and for an empty result.
        """
        result = self
        if rdms is not None:
            result = result._with_rdms(_rdm_positions(self, rdms))
        if stimuli is not None:
            result = result._with_stimuli(stimulus_positions(self, stimuli))
        return result

    def with_descriptors(self, descriptors: Mapping[str, Any]) -> RDMs:
        """Add descriptors, each a sequence of k str, int, float or bool, or replace them.

        Raises
        ------
        InvalidInputError
            For a sequence of another length or kind, and a name that cannot be used.
        """
        return self._build(
            self._vectors, self._labels, self._names, self._measure,
            {**self._descriptors, **descriptors}, self._missing,
        )  # fmt: skip

    def _with_rdms(self, keep: NDArray[np.int64]) -> RDMs:
        return self._build(
            self._vectors[keep],
            self._labels,
            tuple(self._names[i] for i in keep),
            self._measure,
            {key: values[keep] for key, values in self._descriptors.items()},
            self._missing,
        )

    def _with_stimuli(self, order: NDArray[np.int64]) -> RDMs:
        return self._build(
            _condensed.select_stimuli(self._vectors, self._n, order),
            None if self._labels is None else tuple(self._labels[i] for i in order),
            self._names,
            self._measure,
            self._descriptors,
            self._missing,
        )

    @classmethod
    def concat(cls, stacks: Iterable[RDMs]) -> RDMs:
        """Stack RDMs over the same stimuli; labels are matched by value to the first that has them.

        A measure is kept where all agree. A descriptor that one part lacks is filled there with
        an empty string or NaN.

        Raises
        ------
        InvalidInputError
            For no RDMs, for different numbers of stimuli, for labels that do not match.
        """
        parts = list(stacks)
        if not parts or not all(isinstance(part, RDMs) for part in parts):
            raise InvalidInputError("concat needs a list of at least one RDMs object")
        first = next((part for part in parts if part.labels is not None), parts[0])
        parts = [align(first, part)[1] for part in parts]
        keys = dict.fromkeys(key for part in parts for key in part.descriptors)
        return cls._build(
            np.concatenate([part.vectors for part in parts]),
            first.labels,
            tuple(name for part in parts for name in part.names),
            parts[0].measure if len({part.measure for part in parts}) == 1 else None,
            {key: _joined_descriptor(key, parts) for key in keys},
            "allow" if any(part._missing == "allow" for part in parts) else "error",
        )

    def mean(self, name: str = "mean") -> RDMs:
        """Mean over the RDMs, as one RDM called `name`.

        A missing pair is left out of its mean; one that is missing from every RDM stays missing.
        """
        if self._missing == "error":
            mean = self._vectors.mean(axis=0, keepdims=True)
        else:
            present = ~np.isnan(self._vectors)
            with np.errstate(invalid="ignore"):
                mean = np.where(present, self._vectors, 0.0).sum(0, keepdims=True) / present.sum(0)
        return self._build(mean, self._labels, (name,), self._measure, None, self._missing)

    def to_dataframe(self) -> pd.DataFrame:
        """One row an RDM and pair: dissimilarity, rdm, stimulus_1, stimulus_2, then descriptors."""
        labels = np.array(self._labels if self._labels is not None else range(self._n))
        first, second = np.triu_indices(self._n, 1)
        pairs = len(first)
        columns: dict[str, Any] = {
            "dissimilarity": self._vectors.ravel(),
            "rdm": np.repeat(np.array(self._names, dtype=object), pairs),
            "stimulus_1": np.tile(labels[first], self.n_rdms),
            "stimulus_2": np.tile(labels[second], self.n_rdms),
        }
        columns |= {key: np.repeat(values, pairs) for key, values in self._descriptors.items()}
        return pd.DataFrame(columns)

    def save(self, path: str | PathLike[str]) -> None:
        """Write to an HDF5 file (.h5 or .hdf5; docs/format.md), whole or not at all."""
        # Imported here: the readers of rsafast.io build RDMs themselves.
        from rsafast.io.store import save_rdms

        save_rdms(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> RDMs:
        """Read a file that :meth:`save` wrote; :func:`rsafast.io.read_rdms` reads others."""
        from rsafast.io.store import load_rdms

        return load_rdms(path)

    @classmethod
    def from_rsatoolbox(
        cls, rdms: Any, *, labels: str | None = None, missing: Missing = "error"
    ) -> RDMs:
        """Convert an ``rsatoolbox.rdm.RDMs``.

        Parameters
        ----------
        rdms : rsatoolbox.rdm.RDMs
        labels : str, optional
            Pattern descriptor that identifies the stimuli. By default "label", "stimulus", "conds"
            and the like, else the first whose values are unique str or int, else ``index`` where
            it is no plain count. Other pattern descriptors are left behind.
        missing : {"error", "allow"}
            What NaN means, as in :class:`RDMs`.

        Notes
        -----
        The rdm descriptor "name" becomes the names, the others (but a plain ``index``) the
        descriptors; a descriptor of the whole object, if a str or number, is given to every RDM.
        """
        vectors = _condensed.checked_vectors(_condensed.as_real_array(rdms.dissimilarities))
        k = len(vectors)
        of_rdms = {key: list(values) for key, values in rdms.rdm_descriptors.items()}
        if of_rdms.get("index") == list(range(k)):
            del of_rdms["index"]
        names = of_rdms.pop("name", None)
        for key, value in (getattr(rdms, "descriptors", None) or {}).items():
            if isinstance(value, str | int | float | np.generic) and key not in _RESERVED:
                of_rdms.setdefault(key, [value] * k)
        return cls._build(
            vectors,
            _labels_of_patterns(rdms.pattern_descriptors, labels),
            None if names is None else [str(name) for name in names],
            None if rdms.dissimilarity_measure is None else str(rdms.dissimilarity_measure),
            {str(key): _without_none(values) for key, values in of_rdms.items()},
            missing,
        )

    def to_rsatoolbox(self) -> Any:
        """Convert to an ``rsatoolbox.rdm.RDMs``: labels as "label", names as "name".

        Raises
        ------
        BackendUnavailableError
            Where rsatoolbox is not installed.
        """
        try:
            from rsatoolbox.rdm import RDMs as TheirRDMs
        except ImportError:
            raise BackendUnavailableError(
                "to_rsatoolbox needs rsatoolbox; install it with: pip install rsatoolbox"
            ) from None
        of_rdms = {key: values.tolist() for key, values in self._descriptors.items()}
        return TheirRDMs(
            self._vectors.copy(),
            dissimilarity_measure=self._measure,
            rdm_descriptors={"name": list(self._names), **of_rdms},
            pattern_descriptors=None if self._labels is None else {"label": list(self._labels)},
        )

    def __len__(self) -> int:
        return self.n_rdms

    def __getitem__(self, item: Selection | Mapping[str, Any]) -> RDMs:
        # IndexError ends iteration protocols that probe by position.
        if isinstance(item, int) and not -self.n_rdms <= item < self.n_rdms:
            raise IndexError(f"RDM {item} of {self.n_rdms}")
        return self.subset(rdms=item)

    def __iter__(self) -> Iterator[RDMs]:
        return (self[i] for i in range(self.n_rdms))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RDMs):
            return NotImplemented
        return (
            (self._labels, self._names, self._measure)
            == (other._labels, other._names, other._measure)
            and np.array_equal(self._vectors, other._vectors, equal_nan=True)
            and self._descriptors.keys() == other._descriptors.keys()
            and all(
                values.tolist() == other._descriptors[key].tolist()
                for key, values in self._descriptors.items()
            )
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        parts = [f"{self.n_rdms} RDM{'s' * (self.n_rdms > 1)}"]
        if self._names != _default_names(self.n_rdms):
            parts[0] += f" {_abridged(self._names)}"
        stimuli = f"{self._n} stimuli"
        parts.append(stimuli if self._labels is None else f"{stimuli} {_abridged(self._labels)}")
        if self._measure is not None:
            parts.append(f"measure {self._measure!r}")
        if self._descriptors:
            parts.append(f"descriptors {', '.join(self._descriptors)}")
        if self.has_missing:
            parts.append(f"{int(np.isnan(self._vectors).sum())} missing pairs")
        return f"RDMs({', '.join(parts)})"

    def _repr_html_(self) -> str:
        shown = min(self.n_rdms, 5)
        head = "".join(f"<th>{html.escape(key)}</th>" for key in ("name", *self._descriptors))
        rows = "".join(
            "<tr>"
            + "".join(
                f"<td>{html.escape(str(value))}</td>"
                for value in (self._names[i], *(d[i] for d in self._descriptors.values()))
            )
            + "</tr>"
            for i in range(shown)
        )
        more = f"<p>and {self.n_rdms - shown} more</p>" if self.n_rdms > shown else ""
        return f"<p>{html.escape(repr(self))}</p><table><tr>{head}</tr>{rows}</table>{more}"


def as_rdms(x: Any, role: str) -> RDMs:
    """Return RDMs of an RDMs object, an array or an rsatoolbox RDMs object.

    Parameters
    ----------
    x : RDMs, rsatoolbox.rdm.RDMs or array as :class:`RDMs` takes
    role : str
        Name of the argument, for the error message.

    Raises
    ------
    InvalidInputError
        Where `x` is none of these or is not valid; the message starts with `role`.
    """
    if isinstance(x, RDMs):
        return x
    if isinstance(x, str | bytes | PathLike):
        raise InvalidInputError(f"{role}: got the path {x!r}; open it with rsafast.io.read_rdms")
    if x is None:
        raise InvalidInputError(f"{role}: expected RDMs or an array, got None")
    theirs = all(hasattr(x, name) for name in ("dissimilarities", "pattern_descriptors"))
    try:
        return RDMs.from_rsatoolbox(x) if theirs else RDMs(x)
    except InvalidInputError as error:
        raise InvalidInputError(f"{role}: {error}") from None


def align(a: RDMs, b: RDMs) -> tuple[RDMs, RDMs]:
    """Bring `b` into the stimulus order of `a`.

    Where both have labels they are matched by value; where one has none, the order is taken to
    be the same.

    Raises
    ------
    InvalidInputError
        Where the labels differ (up to 5 of each side are named) or the numbers of stimuli do.
    """
    if a.labels is not None and b.labels is not None:
        _check_same_labels(a.labels, b.labels, "the first", "the second")
        return a, b.reorder(a.labels)
    if a.n_stimuli != b.n_stimuli:
        raise InvalidInputError(
            f"the first RDMs hold {a.n_stimuli} stimuli, the second {b.n_stimuli}; "
            "keep the common ones with .subset(stimuli=...)"
        )
    return a, b


def _check_same_labels(
    a: tuple[Label, ...], b: tuple[Label, ...], name_a: str, name_b: str
) -> None:
    if set(a) == set(b):
        return
    missing_b, missing_a = _first_few(a, b), _first_few(b, a)
    said = [f"{name_b} lacks {missing_b}"] if missing_b else []
    said += [f"{name_a} lacks {missing_a}"] if missing_a else []
    hint = "keep the common ones with .subset(stimuli=...)"
    if type(a[0]) is not type(b[0]):
        hint = f"one side has {type(a[0]).__name__} labels, the other {type(b[0]).__name__}"
    raise InvalidInputError(f"labels do not match: {'; '.join(said)}; {hint}")


def _first_few(these: tuple[Label, ...], others: tuple[Label, ...]) -> str:
    """Up to 5 of `these` that are not among `others`, and how many more there are."""
    known = set(others)
    lacking = [label for label in these if label not in known]
    more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
    return ", ".join(repr(label) for label in lacking[:5]) + more


def _abridged(items: Sequence[Any]) -> str:
    """All of up to 3 items, else the first and the last."""
    if len(items) <= 3:
        return ", ".join(repr(item) for item in items)
    return f"{items[0]!r} ... {items[-1]!r}"


def _default_names(k: int) -> tuple[str, ...]:
    return tuple(f"rdm {i}" for i in range(k))


def _sequence(values: Any, what: str) -> list[Any]:
    """`values` as a list of Python objects; raise for strings and for nested sequences."""
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise InvalidInputError(f"{what} must be one-dimensional, got shape {values.shape}")
        return values.tolist()
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InvalidInputError(f"{what} must be a sequence, got {values!r}")
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def checked_labels(labels: Any, n: int) -> tuple[Label, ...] | None:
    """Labels of n stimuli: unique, all str or all int. None stays None."""
    if labels is None:
        return None
    values = _sequence(labels, "labels")
    if len(values) != n:
        raise InvalidInputError(f"labels must name {n} stimuli, got {len(values)}")
    kinds = {type(value) for value in values}
    if kinds not in ({str}, {int}):
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise InvalidInputError(
            f"labels must be all str or all int, got {found}; convert with [str(x) for x in labels]"
        )
    if kinds == {int} and any(not -(2**63) <= value < 2**63 for value in values):
        raise InvalidInputError("integer labels must fit in 64 bits; pass them as str")
    seen: dict[Label, int] = {}
    for i, value in enumerate(values):
        if value in seen:
            raise InvalidInputError(
                f"labels must be unique: {value!r} is at {seen[value]} and at {i}; average "
                "repeated stimuli first, or make the labels distinct"
            )
        seen[value] = i
    return tuple(values)


def _checked_names(names: Any, k: int) -> tuple[str, ...]:
    if names is None:
        return _default_names(k)
    values = [names] if isinstance(names, str) else _sequence(names, "names")
    if len(values) != k:
        raise InvalidInputError(f"names must name {k} RDMs, got {len(values)}")
    if any(not isinstance(value, str) for value in values):
        wrong = next(value for value in values if not isinstance(value, str))
        raise InvalidInputError(f"names must be str, got {wrong!r}; convert with str()")
    return tuple(values)


def _checked_descriptors(descriptors: Mapping[str, Any], k: int) -> Mapping[str, NDArray[Any]]:
    checked = {}
    for key, values in descriptors.items():
        if not isinstance(key, str) or not key or "/" in key or key == ".":
            raise InvalidInputError(
                f"descriptors: {key!r} is no usable name; it must be a str without '/'"
            )
        if key in _RESERVED:
            raise InvalidInputError(
                f"descriptors: {key!r} is taken by rsafast; choose another name"
            )
        array = np.array(_sequence(values, f"descriptor {key!r}"))
        if array.ndim != 1 or len(array) != k:
            raise InvalidInputError(
                f"descriptor {key!r} must hold one value for each of {k} RDMs, "
                f"got shape {array.shape}"
            )
        if array.dtype.kind not in "Ubiuf":
            raise InvalidInputError(
                f"descriptor {key!r} must hold str, int, float or bool, got dtype {array.dtype}"
            )
        array.flags.writeable = False
        checked[key] = array
    return MappingProxyType(checked)


def _check_finite(
    vectors: FloatArray,
    names: tuple[str, ...],
    labels: tuple[Label, ...] | None,
    n: int,
    missing: Missing,
) -> None:
    is_bad: Callable[..., NDArray[Any]] = np.isinf if missing == "allow" else _not_finite
    for index, row in enumerate(vectors):
        bad = is_bad(row)
        if not bad.any():
            continue
        position = int(np.argmax(bad))
        i, j = _condensed.pair_at(position, n)
        pair = f"({i}, {j})" if labels is None else f"({i}, {j}), {labels[i]!r} and {labels[j]!r}"
        hint = "mend or drop the stimulus with .subset(stimuli=...)"
        if np.isnan(row[position]):
            hint = "if the pair is missing on purpose, pass missing='allow'"
        raise InvalidInputError(
            f"RDM {index} ({names[index]!r}) holds {row[position]} at pair {pair} "
            f"({int(bad.sum())} such pairs in this RDM); {hint}"
        )


def _not_finite(row: FloatArray) -> NDArray[Any]:
    return ~np.isfinite(row)


def _rdm_positions(rdms: RDMs, wanted: Any) -> NDArray[np.int64]:
    k = rdms.n_rdms
    if isinstance(wanted, Mapping):
        keep = np.ones(k, dtype=bool)
        for key, value in wanted.items():
            keep &= _matches_descriptor(rdms, key, value)
        positions = np.flatnonzero(keep)
    elif (found := _by_position(wanted, k, "rdms")) is not None:
        positions = found
    else:
        names = [wanted] if isinstance(wanted, str) else _sequence(wanted, "rdms")
        lists = [[i for i, name in enumerate(rdms.names) if name == want] for want in names]
        absent = next((want for want, places in zip(names, lists, strict=True) if not places), None)
        if absent is not None:
            raise InvalidInputError(f"rdms: no RDM is called {absent!r}; {_known(rdms.names)}")
        positions = np.array([i for places in lists for i in places], dtype=np.int64)
    if not len(positions):
        raise InvalidInputError(f"rdms={wanted!r} selects no RDM out of {k}")
    return positions


def _matches_descriptor(rdms: RDMs, key: str, value: Any) -> NDArray[np.bool_]:
    if key not in rdms.descriptors:
        raise InvalidInputError(f"rdms: no descriptor {key!r}; {_known(tuple(rdms.descriptors))}")
    several = isinstance(value, list | tuple | set | np.ndarray)
    wanted = set(value if several else [value])
    held = rdms.descriptors[key].tolist()
    for item in wanted:
        if item not in held:
            raise InvalidInputError(
                f"rdms: descriptor {key!r} is never {item!r}; {_known(tuple(dict.fromkeys(held)))}"
            )
    return np.array([item in wanted for item in held])


def _known(values: tuple[Any, ...]) -> str:
    shown = ", ".join(repr(value) for value in values[:8])
    return f"there are: {shown}{', ...' if len(values) > 8 else ''}" if values else "there are none"


def stimulus_positions(rdms: RDMs, wanted: Any) -> NDArray[np.int64]:
    """Positions of the stimuli that :meth:`RDMs.subset` would keep."""
    n, labels = rdms.n_stimuli, rdms.labels
    integer_labels = labels is not None and isinstance(labels[0], int)
    positions = _by_position(wanted, n, "stimuli", integers=not integer_labels)
    if positions is None:
        single = isinstance(wanted, str | int | np.integer)
        values = _sequence([wanted] if single else wanted, "stimuli")
        if labels is None:
            raise InvalidInputError(f"stimuli: {values[0]!r} is a label, and these RDMs have none")
        place = {label: i for i, label in enumerate(labels)}
        absent = [value for value in values if value not in place]
        if absent:
            raise InvalidInputError(f"stimuli: no label {absent[0]!r}; {_known(labels)}")
        positions = np.array([place[value] for value in values], dtype=np.int64)
    if len(np.unique(positions)) != len(positions):
        raise InvalidInputError("stimuli: one is asked for twice; its pair with itself is no pair")
    if len(positions) < _condensed.MIN_STIMULI:
        raise InvalidInputError(
            f"stimuli: {len(positions)} would be left; an RDM needs at least "
            f"{_condensed.MIN_STIMULI}"
        )
    return positions


def _by_position(
    wanted: Any, length: int, role: str, integers: bool = True
) -> NDArray[np.int64] | None:
    """Positions of a slice, a boolean mask or integers; None where `wanted` is none of these."""
    if isinstance(wanted, slice):
        return np.arange(length)[wanted]
    if isinstance(wanted, str):
        return None
    array = np.atleast_1d(np.asarray(wanted))
    if array.dtype == bool and array.ndim == 1:
        if len(array) != length:
            raise InvalidInputError(f"{role}: a mask needs {length} booleans, got {len(array)}")
        return np.flatnonzero(array)
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, dtype=np.int64)
    if not integers or array.dtype.kind not in "iu" or array.ndim != 1:
        return None
    outside = array[(array < -length) | (array >= length)]
    if outside.size:
        raise InvalidInputError(f"{role}: position {outside[0]} is outside 0 ... {length - 1}")
    return (array % length).astype(np.int64)


def _joined_descriptor(key: str, parts: list[RDMs]) -> list[Any]:
    values: list[Any] = []
    for part in parts:
        held = part.descriptors.get(key)
        values += [None] * part.n_rdms if held is None else held.tolist()
    present = {type(value) for value in values} - {type(None)}
    if str in present and len(present) > 1:
        raise InvalidInputError(
            f"descriptor {key!r} holds str in one part and numbers in another; make them one kind"
        )
    return _without_none(values)


def _without_none(values: Sequence[Any]) -> list[Any]:
    """`values` with None replaced by an empty string, or by NaN among numbers."""
    items = [value.item() if isinstance(value, np.generic) else value for value in values]
    numbers = any(isinstance(item, int | float) for item in items)
    return [(float("nan") if numbers else "") if item is None else item for item in items]


def _labels_of_patterns(patterns: Mapping[str, Any], key: str | None) -> list[Label] | None:
    """Labels of an rsatoolbox object: see :meth:`RDMs.from_rsatoolbox`."""
    if key is not None:
        if key not in patterns:
            raise InvalidInputError(
                f"labels={key!r} is no pattern descriptor; {_known(tuple(patterns))}"
            )
        return _sequence(patterns[key], "labels")
    others = [name for name in patterns if name != "index" and name not in _LABEL_DESCRIPTORS]
    for name in (*_LABEL_DESCRIPTORS, *others):
        if name in patterns:
            values = _sequence(patterns[name], name)
            kinds = {type(value) for value in values}
            if kinds in ({str}, {int}) and len(set(values)) == len(values):
                return values
    index = _sequence(patterns.get("index", []), "index")
    plain = index == list(range(len(index))) or len(set(index)) < len(index)
    return None if plain else index
