"""Hand-written steps for a team of threads: the first free thread computes the whole step."""

import re

from rnn_export.export.targets.c.writer import PACKAGE
from rnn_export.runtime.build.template import render

HEADER = """
#ifdef {upper}_THREADS
#define {upper}_THREADS_MOST 64
typedef struct {{ char memory[4608]; }} __attribute__((aligned(64))) {name}_team;
int {name}_team_start({name}_team *team, int threads, const int *cores);
void {name}_team_stop({name}_team *team);
void {name}_team_step({name}_team *, {parameters});
#endif
"""
CODE = """
#ifdef {upper}_THREADS
#include "rnn_team.h"
typedef struct {{ {members}; }} toy_given;
static void toy_block(const void *given, int u, int t)
{{
    const toy_given *g = (const toy_given *)given;
    (void)t;
    if (u) {name}_step({found});
}}
int {name}_team_start({name}_team *team, int threads, const int *cores)
{{
    return rnn_team_start((rnn_team *)(void *)team, threads, cores);
}}
void {name}_team_stop({name}_team *team) {{ rnn_team_stop((rnn_team *)(void *)team); }}
void {name}_team_step({name}_team *given, {parameters})
{{
    rnn_team *const team = (rnn_team *)(void *)given;
    const toy_given at = {{ {names} }};
    if (!rnn_hold(team)) {{
        toy_block(&at, 1, 0);
        return;
    }}
    rnn_phase(team, toy_block, &at, 2, 0, 0);
    rnn_release(team);
}}
#endif
"""


def by_team(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    """The sources of the step `name`, of which the second of two blocks is the whole step."""
    header, code = files[f"{name}.h"].decode(), files[f"{name}.c"].decode()
    found = re.search(rf"void {name}_step\((.*)\);", header)
    assert found
    parameters = found[1]
    names = re.findall(r"(\w+)(?:,|$)", parameters)
    words = {
        "name": name,
        "upper": name.upper(),
        "parameters": parameters,
        "members": parameters.replace(",", ";"),
        "names": ", ".join(names),
        "found": ", ".join(f"g->{each}" for each in names),
    }
    return {
        **files,
        f"{name}.h": (header + HEADER.format(**words)).encode(),
        f"{name}.c": f"#define _GNU_SOURCE\n{code}{CODE.format(**words)}".encode(),
        "rnn_team.h": render(PACKAGE, "templates/rnn_team.h", name, {}).encode(),
    }
