"""A trainer's steps on batches that were placed and on arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from shared_spec import ImageError, ResNetSpec, optimization


def placed(resnet: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """Losses of four steps, each on arrays and each on what was placed; whether the weights are bit
    for bit the same after them; and what each of the two refuses.
    """
    given = ResNetSpec.parse(spec)
    draw = np.random.default_rng(0)
    batches = [
        (draw.standard_normal((4, 32, 32, 3)).astype(np.float32), draw.integers(0, 10, 4))
        for _ in range(2)
    ]
    how = optimization(learning_rate=0.1)
    losses, states = [], []
    for ahead in (False, True):
        trainer = resnet.Trainer(resnet.create_model(given, seed=0, dtype="float32"), how, 10)
        if ahead:
            kept = [trainer.place(*batch) for batch in batches]
            steps = [trainer.step(kept[i % 2]) for i in range(4)]
        else:
            steps = [trainer.step(*batches[i % 2]) for i in range(4)]
        losses.append([float(step.loss) for step in steps])
        states.append(trainer.state())
    refused = []
    for call in (trainer.place, trainer.step):
        for arrays in ((batches[0][0], batches[0][1] + 10), (batches[0][0], None)):
            try:
                call(*arrays)
            except ImageError as error:
                refused.append(str(error))
    same = all(np.array_equal(states[0][key], states[1][key]) for key in states[0])
    return {"losses": losses, "same": same, "refused": refused}
