"""From a spec to the whole net."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from itertools import groupby

from shared_spec.plan.compiler.blocks import block_or_start, pre_activation_block
from shared_spec.plan.compiler.ends import final_layers, head_layers, stem_layers, stem_pool_layers
from shared_spec.plan.compiler.pieces import numbered
from shared_spec.plan.compiler.pyramid import pyramid
from shared_spec.plan.compiler.segmentation import outputs_of, segmenter
from shared_spec.plan.compiler.sites import sites_of
from shared_spec.plan.layers import Layers
from shared_spec.plan.names import names_of
from shared_spec.plan.network import Plan, Stage
from shared_spec.spec.resnet_spec import ResNetSpec


@lru_cache(maxsize=256)  # the catalogue, while a file is compared with it
def compile_plan(spec: ResNetSpec) -> Plan:
    """Resolve every number that follows from `spec`.

    Returns:
        A frozen, hashable `Plan`; equal specs give equal plans.

    Raises:
        SpecError: if some layer's channels do not divide as the spec asks.
    """
    build = pre_activation_block if spec.pre_activation else block_or_start
    names, sites = names_of(spec), [*sites_of(spec)]
    stages: list[Stage] = []
    for index, members in groupby(sites, key=lambda site: site.stage):
        name = numbered(names.stage, index)
        blocks = (build(spec, f"{name}.{numbered(names.block, s.number)}", s) for s in members)
        stages.append(Stage(name, tuple(blocks)))
    stem, before_last_stride = stem_layers(spec)
    pool = stem_pool_layers(spec, names.stem_pool)
    if spec.segmentation != "none":
        channels = [site.out_channels for site in sites if site.number == 0]
        ends = list(zip((stage.name for stage in stages), channels, strict=True))
        p = Plan(spec.in_channels, stem + pool, tuple(stages), ())
        return replace(p, junctions=segmenter(spec, ends), outputs=outputs_of(spec))
    if not spec.features_only:
        stride = spec.stem_stride_total * math.prod(s.stride for s in sites)
        head = head_layers(spec, sites[-1].out_channels, stride)
        return Plan(spec.in_channels, stem + pool, tuple(stages), head)
    widths = {site.stage + 1: site.out_channels for site in sites}
    final: Layers = ()
    if names.final_feature:
        final, widths[len(stages)] = final_layers(spec, sites[-1].out_channels)
    end = final[-1].name if final else stages[-1].name
    levels = (before_last_stride, *(stage.name for stage in stages[:-1]), end)
    wanted = spec.out_indices or range(0 if spec.pyramid is None else 1, len(levels))
    last = wanted[-1]
    # Nothing is built that no output needs.
    if not last:
        kept = 1 + next(i for i, layer in enumerate(stem) if layer.name == before_last_stride)
        return Plan(spec.in_channels, stem[:kept], (), (), levels[:1])
    outputs = tuple(levels[i] for i in wanted)
    p = Plan(spec.in_channels, stem + pool, tuple(stages[:last]), final if end in outputs else ())
    if spec.pyramid is None:
        return replace(p, outputs=outputs)
    junctions, outputs = pyramid(spec, {levels[i]: widths[i] for i in wanted}, spec.pyramid)
    return replace(p, outputs=outputs, junctions=junctions)
