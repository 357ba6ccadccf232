"""Recurrent operators and rolled loops over time."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

from torch import fx

from rnn_export.errors import LiftError
from rnn_export.export.lift.loops.rolled import RolledLoop
from rnn_export.export.lift.program.fx import args_of, path_of, placeholders
from rnn_export.export.lift.program.names import OPS
from rnn_export.export.lift.streaming.frames import Info, Last, Refused, Timed, positive
from rnn_export.export.lift.streaming.keeping import Keeping
from rnn_export.export.lift.streaming.recorded import BASE, MORE


class Recurrences(Keeping):
    """What carries a memory from frame to frame."""

    def recurrent(self, node: fx.Node) -> None:
        directions = self.values[BASE][args_of(node)[1]].shape[0]
        if directions == 2:
            kind = str(node.target).split(".")[1].upper()
            path = self.names.layer(node).rpartition(".")[0] or "the model"
            raise LiftError(
                f"{path}: the {kind} is bidirectional: it needs the end of the sequence before it can give the first "
                "frame, so it cannot stream. Train it with bidirectional=False, or export whole sequences only: "
                "sequence_only=True (--sequence-only)."
            )
        path = self.names.layer(node)
        x = args_of(node)[0]
        assert isinstance(x, fx.Node)
        for argument, letter, _ in OPS[node.target]:
            self.refuse_computed(path, args_of(node)[argument], letter)
        ready = self.settled(x, node)
        node.update_arg(0, ready)
        info = self.info[ready]
        for argument, letter, result in OPS[node.target]:
            operand = args_of(node)[argument]
            assert isinstance(operand, fx.Node)
            if operand in self.from_state:
                continue
            name = self.names.unused(f"{path}.{letter}")
            few, many = (self.values[run][operand] for run in (BASE, MORE))
            why = f"the {letter} of a layer that is called without it, or with one made in forward"
            own = self.new_state(name, x, few, many, node, "layer", why)
            node.update_arg(argument, own)
            self.set_next(self.result(node, result), own, info.late)
        late = Last(info.late)
        self.info[node] = [replace(info, axis=0), *([late] * (len(self.values[BASE][node]) - 1))]

    def refuse_computed(self, path: str, operand: Any, what: str) -> None:
        if isinstance(self.info.get(operand), Timed | Last | Refused) or (
            operand in self.from_input and operand not in self.from_state
        ):
            raise LiftError(
                f"{path}: the state {what!r} that it starts from is computed from the input, so it cannot be carried "
                "between calls. Take it as an argument and declare it: states={argument: output}."
            )

    def result(self, node: fx.Node, index: int) -> fx.Node:
        taken = [u for u in node.users if u.target is operator.getitem and u.args[1] == index]
        if taken:
            return taken[0]
        with self.graph.inserting_after(node):
            return self.graph.call_function(operator.getitem, (node, index))

    def rolled_loop(self, node: fx.Node) -> None:
        loop = self.module.get_submodule(str(node.target))
        assert isinstance(loop, RolledLoop)
        args = args_of(node)
        first_memory = len(args) - loop.memories
        first_frame = first_memory - len(loop.scans)
        if isinstance(
            refused := next((i for n in args[:first_memory] if isinstance(i := self.info.get(n), Refused)), None),
            Refused,
        ):
            raise refused.error
        for argument in args[:first_frame]:
            if isinstance(self.info.get(argument), Timed | Last):
                raise self.refuse(node, "its loop over time takes the whole sequence at each frame.")
        frames = args[first_frame:first_memory]
        for x, path in zip(frames, loop.scans, strict=True):
            if self.time_axis(x) != path[0][1] or self.info[x].inner != 1:
                raise self.refuse(node, "its loop does not run over the frames of the input.")
        if len({self.info[x].rate for x in frames}) > 1:
            raise self.refuse(node, "its loop takes values of different rates over time.")
        settled = [self.settled(x, node) for x in frames]
        lag = max(self.info[x].lag or 0 for x in settled)
        settled = [self.delayed(x, lag, node) for x in settled]
        info = self.info[settled[0]]
        given = self.values[BASE][node]
        kept = len(given) - loop.memories
        args[first_frame:first_memory] = settled
        for i in range(loop.memories):
            operand = args[first_memory + i]
            name, what = self.memory_name(loop, i)
            self.refuse_computed(name, operand, what)
            if operand in self.from_state:
                continue
            why = "a variable that the model's own loop carries from frame to frame"
            like = self.like_result(node, kept + i)
            few, many = (self.values[run][operand].expand_as(self.values[run][like]) for run in (BASE, MORE))
            own = self.new_state(self.names.unused(name), like, few, many, node, "loop", why)
            args[first_memory + i] = own
            self.set_next(self.result(node, kept + i), own, info.late)
        node.args = tuple(args)
        infos: list[Info] = []
        for i in range(len(given)):
            if i < len(loop.joins):
                dim = loop.joins[i][1]
                axis = positive(dim, given[i].dim())
                size = given[i].shape[axis] // self.frames_in(settled[0])
                infos.append(replace(info, axis=axis, inner=size, past=0, lag=lag))
            else:
                infos.append(Last(info.late))
        self.info[node] = infos

    def like_result(self, node: fx.Node, index: int) -> fx.Node:
        """A node with the values of one result of `node`."""
        result = self.result(node, index)
        for run in self.values:
            run[result] = run[node][index]
        return result

    def memory_name(self, loop: RolledLoop, index: int) -> tuple[str, str]:
        """The name of one memory: by the layer that takes it, or else by the module that reads it first."""
        memory = placeholders(loop.body.graph)[index - loop.memories]
        node = memory
        while len(node.users) == 1:
            user = next(iter(node.users))
            for argument, letter, _ in OPS.get(user.target, ()):
                if user.args[argument] is node:
                    if user not in self.layers:
                        self.layers[user] = self.names.layer(user)
                    return f"{self.layers[user]}.{letter}", letter
            if len(user.all_input_nodes) > 1 or user.op == "output":
                break
            node = user
        path = path_of(next(iter(memory.users), memory))
        return ".".join([*filter(None, [path]), "state"]), "state"
