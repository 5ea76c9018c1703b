"""An artifact that runs here, the inputs on which it is compared, and its original's outputs."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corelocker.artifacts import Artifact
from corelocker.audit.agreement.diverse import CHILDREN, MOST_CLASSES, diversified
from corelocker.audit.agreement.inputs import InputRecipe, read_samples, recipes
from corelocker.audit.agreement.runners import Call, CannotRunError, Method, run_all, runner_of
from corelocker.audit.agreement.score import FEWEST_ANSWERS, Agreement, Reference, worst
from corelocker.audit.agreement.time_limit import OutOfTimeError, TimeLimit
from corelocker.audit.tier_bytes import State, original_state, shuffled_weights, states_of_plan
from corelocker.errors import CoreLockerError
from corelocker.locking.choose import choose_channels
from corelocker.locking.criteria.synthetic import InputStats
from corelocker.locking.options import LockOptions, LockWarning
from corelocker.locking.requirement import PART_ALONG, STILL_ALONG

SECONDS = 2.0  # of one core, for running one state
BREEDING = 1.5  # times that, for more different answers
MOST, FEWEST, TRIED = 512, 24, 32  # inputs: measured at most and at least, and to choose a recipe by
MANY_ANSWERS = 3.0  # bits of the original's answers at which a recipe is good enough
SHUFFLES = 4  # draws of shuffled weights
MOST_RECIPES = 6  # that are tried when one is good enough already
PATIENCE = 60.0  # seconds of one core, after which no further recipe is tried
SEED = 20
CHOOSING = 0.25  # of a time limit, each for choosing inputs and for breeding them


@dataclass
class Examination:
    """A method on its inputs.

    Attributes:
        inputs: for people, what they are.
        columns, count: the inputs.
        outputs, references: of the original; a reference is None where nothing can be compared with the output.
    """

    method: Method
    inputs: str
    columns: list[Any] = field(repr=False)
    count: int
    outputs: list[Tensor] = field(repr=False)
    references: list[Reference | None] = field(repr=False)


class Examined:
    """An artifact and how its states are compared with the original.

    Args:
        factory: of the torch module, for a checkpoint.
        samples: the publisher's inputs; synthetic ones without.
        seconds: for one state on one kind of inputs.
        kinds: of synthetic inputs; each is compared alone, and a state is as good as on the kind where most is left. With more than
            one, or with samples in their place, less correlation counts as silent, as a lock of a part needs it.
        limit: for everything that is run here, with `states` that are compared. Fewer inputs are run than otherwise where that is
            enough, but never so few that they tell nothing.

    Raises CannotRunError when nothing can be measured; the message says why. OutOfTimeError, also later, when the limit is too
    short.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        factory: str | None = None,
        samples: Path | None = None,
        stats: InputStats | None = None,
        seconds: float = SECONDS,
        kinds: int = 1,
        limit: TimeLimit | None = None,
        states: int = 1,
    ) -> None:
        self.artifact = artifact
        self.limit = limit or TimeLimit()
        self._states = states
        self._runner = runner_of(artifact, factory)
        self._stats, self._samples = stats, samples
        self._kinds = kinds if samples is None else 1
        self._most_along = PART_ALONG if kinds > 1 else STILL_ALONG
        self.examinations: list[Examination] = []
        reasons = []
        methods = [m for m in self._runner.methods if any(i.fixed is None for i in m.inputs)]
        call = self._load(original_state(artifact)) if methods else None
        for place, method in enumerate(methods):
            try:
                assert call is not None  # noqa: S101
                self.examinations += self._examine(call, method, seconds / len(methods), len(methods) - place)
            except CannotRunError as error:
                reasons.append(str(error))
        if not self.examinations:
            raise CannotRunError(reasons[0] if reasons else "it has no method that takes a tensor")
        self._blind: set[tuple[int, int]] | None = None
        self._shuffled: dict[tuple[int, int], list[Agreement]] = {}

    @property
    def inputs(self) -> str:
        """What the inputs are, for people."""
        return "; ".join(dict.fromkeys(e.inputs for e in self.examinations))

    @property
    def count(self) -> int:
        """Inputs of each method, the fewest."""
        return min(e.count * e.method.batch for e in self.examinations)

    def compare(self, state: State, most: int = MOST) -> Agreement:
        """The agreement of a state with the original, on at most `most` inputs: of all outputs the one of which most is left."""
        return worst(list(self.compare_each(state, most)))

    def compare_each(self, state: State, most: int = MOST) -> Iterator[Agreement]:
        """The agreement of every output, on each kind of inputs, that depends on weights."""
        found = False
        for place, output, same, agreement in self._compared(state, most):
            if not same or (place, output) not in self._outputs_without_weights():
                found = True
                yield agreement if agreement.silent else agreement.beside(self._with_shuffled_weights()[place, output])
        if not found:
            raise CannotRunError("no output depends on weights that can be locked")

    def _compared(self, state: State, most: int) -> Iterator[tuple[int, int, bool, Agreement]]:
        """(examination, output, whether it is the original's bit for bit, agreement) of every output that can be compared."""
        call = self._load(state)
        for place, e in enumerate(self.examinations):
            count = min(most, e.count)
            outputs = run_all(call, e.method, e.columns, count)
            for number, (output, reference) in enumerate(zip(outputs, e.references, strict=True)):
                if reference is None:
                    continue
                original = e.outputs[number][:count]
                if output.shape != original.shape:
                    raise CannotRunError(f"{e.method.name}: the shape of an output depends on the weights")
                compared = reference if count == e.count else Reference(original, e.method.batch)
                agreement = replace(compared.compare(output), most_along=self._most_along)
                yield place, number, torch.equal(output, original), agreement

    def _with_shuffled_weights(self) -> dict[tuple[int, int], list[Agreement]]:
        """What is left of every output when the weights of each layer change places with each other, in several draws.

        There are no more draws when each output was silent in one: then it takes weights to say something.
        """
        while not self._shuffled or (
            len(next(iter(self._shuffled.values()))) < SHUFFLES
            and not all(any(draw.silent for draw in draws) for draws in self._shuffled.values())
        ):
            draw = len(next(iter(self._shuffled.values()), []))
            state = shuffled_weights(self.artifact, self._hardened() or original_state(self.artifact), draw)
            for place, output, _, agreement in self._compared(state, MOST):
                self._shuffled.setdefault((place, output), []).append(agreement)
        return self._shuffled

    def _outputs_without_weights(self) -> set[tuple[int, int]]:
        """Outputs that stay the same when everything is locked: they say nothing about a lock."""
        if self._blind is None:
            locked = self._hardened()
            compared = () if locked is None else self._compared(locked, FEWEST)
            self._blind = {(place, output) for place, output, same, _ in compared if same}
        return self._blind

    def _hardened(self) -> State | None:
        """The files with everything locked; None where nothing can be."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LockWarning)  # nobody asked for this lock
                plan = choose_channels([self.artifact], LockOptions(preset="hardened"), b"blind")
            return states_of_plan(self.artifact, plan)[0][0].files
        except CoreLockerError:
            return None

    def _load(self, state: State) -> Call:
        """The artifact in a state; what is run ends with the time limit."""
        call = self._runner.load(state)

        def one(method: str, inputs: Sequence[Any]) -> list[Tensor]:
            self.limit.check()
            return call.one(method, inputs)

        def many(method: str, columns: Sequence[Any]) -> list[Tensor] | None:
            self.limit.check()
            return call.many(method, columns)

        return Call(one, many)

    def _examine(self, call: Call, method: Method, seconds: float, methods: int) -> list[Examination]:
        """The method on its inputs, and on further kinds of them where they bring out enough different answers.

        `methods` are to be examined yet, this one included.
        """
        limit = self.limit.part(1 / methods)
        chosen = [] if self._samples is not None else self._recipes(call, method, limit.part(CHOOSING))
        kinds = len(chosen) or 1
        found = [self._examine_on(call, method, seconds, chosen[0] if chosen else None, SEED, limit.part(1 / kinds))]
        for place, recipe in enumerate(chosen[1:], 1):
            try:
                part = limit.part(1 / (kinds - place))
                found.append(self._examine_on(call, method, seconds, recipe, SEED + place, part))
            except CannotRunError:
                continue
        return found

    def _examine_on(
        self, call: Call, method: Method, seconds: float, recipe: InputRecipe | None, seed: int, limit: TimeLimit
    ) -> Examination:
        if self._samples is not None:
            samples = read_samples(self._samples, method, self._stats)

            def made(count: int) -> list[Any]:
                return [c[:count] if torch.is_tensor(c) and c.ndim else c for c in samples]

            available = next(len(c) for c in samples if torch.is_tensor(c) and c.ndim)
            name = f"samples of {self._samples.name}"
        else:
            assert recipe is not None  # noqa: S101

            def made(count: int) -> list[Any]:
                return recipe.make(count, seed)

            available, name = MOST, recipe.name
        tried = min(TRIED, available)
        started, began = time.process_time(), self.limit.clock()
        run_all(call, method, made(TRIED), tried)
        each = max(1e-6, (time.process_time() - started) / tried)
        lasts = max(1e-6, (self.limit.clock() - began) / tried)
        if FEWEST * (1 + self._states) * lasts > self.limit.left:
            raise OutOfTimeError  # now, and not when it is used up
        wanted = min(seconds / each, limit.left / (2 + self._states + SHUFFLES) / lasts)
        count = min(available, max(FEWEST, int(min(MOST, wanted))))
        columns = made(count)
        if recipe is not None and count >= TRIED:
            most = int(min(CHOOSING * limit.left / lasts, 1e9))
            columns = self._diversified(call, method, recipe, columns, count, BREEDING * seconds, most)
            count = next(len(c) for c in columns if torch.is_tensor(c) and c.ndim)
        call = self._load(original_state(self.artifact))  # afresh, as every other state: it may keep something
        outputs = run_all(call, method, columns, count)
        references = [self._reference(output, method) for output in outputs]
        if all(not isinstance(r, Reference) for r in references):
            reason = next((str(r) for r in references), "it returns nothing")
            remedy = "" if recipe is None else "; --samples takes real inputs"
            raise CannotRunError(f"{method.name}: on {name} {reason}{remedy}")
        kept = [r if isinstance(r, Reference) else None for r in references]
        return Examination(method, name, columns, count, outputs, kept)

    @staticmethod
    def _diversified(
        call: Call, method: Method, recipe: InputRecipe, columns: list[Any], count: int, seconds: float, most: int
    ) -> list[Any]:
        """Columns with more different answers of the first output that chooses among a few classes; else as they are.

        Nothing is bred where a generation would be more than `most` inputs.
        """
        outputs = run_all(call, method, columns, count)
        for place, output in enumerate(outputs):
            if output.is_floating_point() and output.ndim == 3 and output.shape[1] == 1:
                if not FEWEST_ANSWERS <= output.shape[2] <= MOST_CLASSES:
                    continue
                if CHILDREN * output.shape[2] > most:
                    return columns

                def run(given: list[Any], place: int = place) -> Tensor:
                    size = next(len(c) for c in given if torch.is_tensor(c) and c.ndim)
                    return run_all(call, method, given, size)[place].squeeze(1).float().nan_to_num()

                return diversified(columns, run, recipe.make, count, seconds)
        return columns

    @staticmethod
    def _reference(output: Tensor, method: Method) -> Reference | str:
        reference = Reference(output, method.batch)
        return reference.reason or reference

    def _recipes(self, call: Call, method: Method, limit: TimeLimit) -> list[InputRecipe]:
        """The recipe on whose inputs the original's answers differ most, and as many more as are wanted, in that order; where there
        are too few of them, the first once more. After the limit no further one is tried."""
        scores: list[tuple[float, InputRecipe]] = []
        first: InputRecipe | None = None
        refused, stop = "", time.process_time() + PATIENCE
        for recipe in recipes(method, self.artifact, self._stats):
            try:
                outputs = run_all(call, method, recipe.make(TRIED, SEED), TRIED)
            except CannotRunError as error:
                refused = refused or str(error)
                continue
            score = max(self._entropies(outputs, method), default=0.0)
            scores.append((score, recipe))
            first = first or (recipe if score >= MANY_ANSWERS else None)
            if first is not None and (self._kinds == 1 or len(scores) >= MOST_RECIPES):
                break
            if time.process_time() > stop or limit.over:
                break
        if not scores:
            raise CannotRunError(refused)
        ranked = [recipe for _, recipe in sorted(scores, key=lambda entry: -entry[0])]
        first = first or ranked[0]
        more = [recipe for recipe in ranked if recipe is not first and recipe.far == first.far]
        return [first, *more, *[first] * self._kinds][: self._kinds]

    @staticmethod
    def _entropies(outputs: Sequence[Tensor], method: Method) -> list[float]:
        return [reference.entropy for output in outputs if (reference := Reference(output, method.batch))]
