"""What users of torchvision and timm do with a model; run in a PyTorch worker. Each habit runs on a
model of theirs and on ours with its weights, and has to give the same.
"""

from __future__ import annotations

import copy
import functools
import io
import pickle
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest

from shared_spec import FrameworkError, SpecError, UnknownModelError, WeightsError, resolve
from tests.peers import timm_model, torchvision_models

EXACT: dict[str, float] = {"rtol": 1e-12, "atol": 1e-12}


def pair(resnet: Any, name: str, library: str = "torchvision") -> tuple[Any, Any]:
    """Theirs and ours in float64 and evaluation mode, with weights and statistics at random."""
    import torch

    from shared_spec import cast_weights, compile_plan, random_weights

    theirs = timm_model(name) if library == "timm" else getattr(torchvision_models(), name)()
    state = cast_weights(random_weights(compile_plan(resolve(name, {})), 3), "float64")
    ours = resnet.create_model(name, weights=state, dtype="float64").eval()
    theirs = theirs.double().eval()
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    return theirs, ours


def images(size: int = 64) -> Any:
    import torch

    return torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.manual_seed(1))


def close(a: Any, b: Any) -> None:
    import torch

    torch.testing.assert_close(a, b, **EXACT)


def torchvision_attributes(resnet: Any) -> None:
    for name in ("resnet18", "resnet50", "wide_resnet50_2"):
        theirs, ours = torchvision_models().__dict__[name](), resnet.create_model(name)
        assert ours.inplanes == theirs.inplanes
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            for a, b in zip(getattr(theirs, stage), getattr(ours, stage), strict=True):
                assert (a.stride, a.expansion) == (b.stride, b.expansion)
                assert (a.downsample is None) == (b.downsample is None)
        for attribute in ("avgpool", "relu"):
            assert isinstance(getattr(ours, attribute), type(getattr(theirs, attribute)))
        # One name for each layer: paths, and keys of checkpoints.
        assert list(ours.state_dict()) == list(theirs.state_dict())
        names = [path for path, _ in ours.named_modules()]
        assert not any(path.endswith(("relu", "avgpool")) for path in names)
        assert {"act1", "layer1.0.act1", "global_pool"} <= {*names}


def _drop_downsample(m: Any) -> None:
    m.layer1[0].downsample = None


def _add_downsample(m: Any) -> None:
    from torch import nn

    m.layer1[1].downsample = nn.AvgPool2d(3, 1, 1)


def _replace_every(m: Any, kind: type, new: Any) -> None:
    """The loop that is in many repositories."""
    for name, child in m.named_children():
        if isinstance(child, kind):
            setattr(m, name, new(child))
        else:
            _replace_every(child, kind, new)


def _frozen(old: Any) -> Any:
    from torchvision.ops import FrozenBatchNorm2d

    new = FrozenBatchNorm2d(old.num_features).double()
    new.running_var.fill_(3)
    return new


def _fuse(m: Any, layers: list[str]) -> None:
    from torch.ao.quantization import fuse_modules

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and used
        fuse_modules(m, layers, inplace=True)


def replacements(resnet: Any) -> None:
    """Each takes effect, as in torchvision."""
    from torch import nn

    edits: dict[str, Any] = {
        "avgpool": lambda m: setattr(m, "avgpool", nn.AdaptiveMaxPool2d(1)),
        "no pool": lambda m: (setattr(m, "avgpool", nn.Identity()), setattr(m, "fc", nn.Flatten())),
        "relu": lambda m: setattr(m, "relu", nn.GELU()),
        "relu of a block": lambda m: setattr(m.layer2[0], "relu", nn.Tanh()),
        "relu that learns": lambda m: setattr(m.layer2[1], "relu", nn.PReLU().double()),
        "set_submodule": lambda m: m.set_submodule("layer3.0.relu", nn.SiLU()),
        "maxpool": lambda m: setattr(m, "maxpool", nn.Identity()),
        "conv1": lambda m: setattr(m, "conv1", nn.AvgPool2d(1)),
        "added downsample": _add_downsample,
        "bn2": lambda m: setattr(m.layer1[0], "bn2", nn.Identity()),
        "add_module avgpool": lambda m: m.add_module("avgpool", nn.AdaptiveMaxPool2d(1)),
        "add_module relu": lambda m: m.add_module("relu", nn.SiLU()),
        "register_module relu": lambda m: m.layer1[0].register_module("relu", nn.SiLU()),
        "register_module bn1": lambda m: m.layer1[0].register_module("bn1", nn.Identity()),
        "every ReLU": lambda m: _replace_every(m, nn.ReLU, lambda old: nn.GELU()),
        "every norm frozen": lambda m: _replace_every(m, nn.BatchNorm2d, _frozen),
        "every norm of groups": lambda m: _replace_every(
            m, nn.BatchNorm2d, lambda old: nn.GroupNorm(8, old.num_features).double()
        ),
        "fused stem": lambda m: _fuse(m, ["conv1", "bn1", "relu"]),
        "fused shortcut": lambda m: _fuse(m, ["layer2.0.downsample.0", "layer2.0.downsample.1"]),
    }
    x = images(33)
    for name in ("resnet18", "resnet50"):
        theirs, ours = pair(resnet, name)
        before = ours(x)
        close(before, theirs(x))
        for edit, change in edits.items():
            a, b = copy.deepcopy(theirs), copy.deepcopy(ours)
            change(a), change(b)
            if edit == "conv1":
                a.conv1 = b.conv1 = nn.Conv2d(3, 64, 5, padding=2).double()
            close(b(x), a(x))
            if not edit.startswith("fused"):
                assert b(x).shape != before.shape or (b(x) - before).abs().max() > 1e-6, edit
    theirs, ours = pair(resnet, "resnet18")
    for m in (theirs, ours):
        _drop_downsample(m)
        m.layer1[0].relu = nn.Identity()
    close(ours(x), theirs(x))
    block = pair(resnet, "resnet50")[1].layer1[0]
    block.relu = nn.GELU()
    assert [type(block.act1), type(block.act2), type(block.act3)] == [nn.GELU] * 3
    assert block.relu is block.act1
    model = resnet.create_model("resnet50")
    model.layer1[0].relu = nn.GELU()
    batch = np.zeros((1, 32, 32, 3), np.float32)
    assert len(resnet.activations(model, batch, ["layer1.0.bn1", "layer2.0.act1"])) == 2
    with pytest.raises(FrameworkError, match=r"layer1.0.act1 is one module with others"):
        resnet.activations(model, batch, ["layer1.0.act1"])
    block.downsample = None
    with pytest.raises(RuntimeError, match="must match"):
        block(images(8)[:, :1].expand(2, 64, 8, 8))
    # torchvision would take out the ReLU after the sum too.
    _, ours = pair(resnet, "resnet18")
    with pytest.raises(AssertionError, match=r"fuser method for: .*Together"):
        _fuse(ours, ["layer1.0.conv1", "layer1.0.bn1", "layer1.0.relu"])
    before = ours(x)
    _fuse(ours, ["layer1.0.conv1", "layer1.0.bn1", "layer1.0.act1"])
    close(ours(x), before)


def pooled_maps(resnet: Any) -> None:
    """The parts of timm's `global_pool`, and nodes for what torchvision calls avgpool, flatten."""
    from torch import nn

    torchvision_models()
    from torchvision.models.feature_extraction import create_feature_extractor

    x = images(65)
    for name in ("resnet18", "resnetv2_18"):
        theirs, ours = pair(resnet, name, "timm")
        pools = [
            m.get_submodule("head" if "v2" in name else "").global_pool for m in (theirs, ours)
        ]
        assert [[n for n, _ in p.named_children()] for p in pools] == [["pool", "flatten"]] * 2
        close(ours(x), theirs(x))
        for pool in pools:
            pool.pool = nn.AdaptiveMaxPool2d(1)
        close(ours(x), theirs(x))
    theirs, ours = pair(resnet, "resnet18", "timm")
    for m in (theirs, ours):
        m.global_pool.flatten, m.fc = nn.Identity(), nn.Identity()
    assert ours(x).shape == (2, 512, 1, 1)
    close(ours(x), theirs(x))
    theirs, ours = pair(resnet, "resnet18")
    nodes = {"avgpool": "global_pool.pool", "flatten": "global_pool.flatten", "relu": "act1"}
    nodes |= {"layer1.0.relu": "layer1.0.act1", "layer1.0.relu_1": "layer1.0.act2"}
    a = create_feature_extractor(theirs, [*nodes])(x)
    b = create_feature_extractor(ours, [*nodes.values()])(x)
    for node, here in nodes.items():
        close(b[here], a[node])


def taken_away(resnet: Any) -> None:
    """As in torchvision a layer that is None or deleted is missed when it is run, and not before,
    since some who do so run the rest by hand.
    """
    theirs, ours = pair(resnet, "resnet18")
    x = images(33)
    for m in (theirs, ours):
        m.avgpool = m.fc = None
    for m in (theirs, ours):
        del m.avgpool, m.fc
    maps = []
    for m in (theirs, ours):
        y = m.layer1(m.maxpool(m.relu(m.bn1(m.conv1(x)))))
        maps.append(m.layer4(m.layer3(m.layer2(y))))
    close(*maps)
    for path, name, told in (
        ("layer1.0", "relu", "act1: was set to None in this ResidualBlock"),
        ("layer1.0", "conv2", "conv2: was set to None"),
        ("", "relu", "act1: was set to None in this ResNet"),
        ("", "fc", "fc: was set to None"),
    ):
        theirs, ours = pair(resnet, "resnet18")
        for m, refusal in (
            (theirs, pytest.raises(TypeError)),
            (ours, pytest.raises(FrameworkError, match=told)),
        ):
            setattr(m.get_submodule(path), name, None)
            assert getattr(m.get_submodule(path), name) is None
            with refusal:
                m(x)


def hooks(resnet: Any) -> None:
    """Hooks written for torchvision see what they see there."""
    from torch import nn

    x = images()
    seen: list[list[Any]] = []
    for model in pair(resnet, "resnet50"):
        found: list[Any] = []
        layers = [model.avgpool, model.relu, model.layer2[0].relu, model.layer1[1].relu]
        handles = [
            m.register_forward_hook(lambda module, args, y, found=found: found.append(y.clone()))
            for m in layers
        ]
        model(x)
        for handle in handles:
            handle.remove()
        model(x)
        seen.append(found)
    theirs, ours = seen
    assert len(theirs) == len(ours) == 8
    assert [tuple(y.shape) for y in ours][-1] == (2, 2048, 1, 1)
    for a, b in zip(theirs, ours, strict=True):
        close(b, a)
    _, model = pair(resnet, "resnet18")
    relu = model.layer1[0].relu
    assert isinstance(relu, nn.ReLU)
    assert relu.inplace
    assert not relu.training
    relu.inplace = False  # as guided backpropagation does
    assert not model.layer1[0].act1.inplace
    assert not model.layer1[0].act2.inplace
    assert not pickle.loads(pickle.dumps(copy.deepcopy(relu))).inplace  # noqa: S301 ours
    close(
        nn.Sequential(model.layer1[0].bn1, relu)(x[:, :1].expand(2, 64, 64, 64)).min(),
        x.new_zeros(()),
    )
    gradients: list[Any] = []
    handle = model.layer1[0].relu.register_full_backward_hook(
        lambda module, inputs, outputs: gradients.append(inputs)
    )
    model(x).sum().backward()
    handle.remove()
    assert len(gradients) == 2


def names_that_nothing_calls(resnet: Any) -> None:
    """A layer under a name of torchvision's that this net does not call is refused."""
    from torch import nn

    cifar = resnet.create_model("resnet20")
    for model, name in (
        (cifar, "maxpool"),
        (cifar, "layer4"),
        (cifar.layer1[0], "conv3"),
        (resnet.create_model("plain20").layer1[0], "downsample"),
        (resnet.create_model("resnet18", features_only=True), "fc"),
        (resnet.create_model("resnet18", features_only=True), "avgpool"),
        (resnet.create_model("resnet18", num_classes=0), "fc"),
        (resnet.create_model("resnetv2_50d_frn").stages[0].blocks[0], "relu"),
        (resnet.create_model("resnetv2_18"), "relu"),
        (resnet.create_model("resnetv2_18"), "conv1"),
        (cifar.layer1[0], "drop_path"),
    ):
        for put in (functools.partial(setattr, model), model.add_module, model.register_module):
            with pytest.raises(AttributeError, match="no "):
                put(name, nn.Identity())
            assert not hasattr(model, name)
    cifar.extra = nn.Identity()  # any other name is the user's
    cifar.layer1[0].add_module("extra", nn.Identity())
    replaced = resnet.create_model("resnet20")
    replaced.global_pool = nn.AdaptiveAvgPool2d(1)
    with pytest.raises(AttributeError, match="no global pool"):
        replaced.avgpool = nn.AdaptiveMaxPool2d(1)


def torchvision_extractors(resnet: Any) -> None:
    torchvision_models()
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.models.feature_extraction import create_feature_extractor

    x = images()
    for name in ("resnet18", "resnet50"):
        theirs, ours = pair(resnet, name)
        nodes = {"maxpool": "a", "layer1.0.bn1": "b", "layer2": "c", "layer3.0": "d", "fc": "e"}
        for training in (False, True):
            a = create_feature_extractor(theirs.train(training), nodes)
            b = create_feature_extractor(ours.train(training), nodes)
            close(b(x), a(x))
        theirs.eval(), ours.eval()
        layers = {"layer1": "0", "layer4": "1"}
        close(IntermediateLayerGetter(ours, layers)(x), IntermediateLayerGetter(theirs, layers)(x))
        a, b = (_resnet_fpn_extractor(m, 3).double() for m in (theirs, ours))
        assert [p.requires_grad for p in a.body.parameters()] == [
            p.requires_grad for p in b.body.parameters()
        ]
        b.fpn.load_state_dict(a.fpn.state_dict())
        close(b(x), a(x))
    odd = resnet.create_model("d2l_resnet18_same", in_channels=3, dtype="float64").eval()
    close(
        create_feature_extractor(odd, ["layer1"])(x)["layer1"], odd.forward_intermediates(x)[1][1]
    )


def timm_extractors(resnet: Any) -> None:
    timm_model("resnet18")
    from timm.models._features import FeatureGetterNet, FeatureHookNet, FeatureListNet

    x = images()
    for name, options in (
        ("resnet50d", {}),
        ("resnetv2_50", {"flatten_sequential": True}),
        ("regnety_002", {}),
        ("regnetz_005", {}),
    ):
        theirs, ours = pair(resnet, name, "timm")
        assert [{k: v for k, v in d.items() if k != "index"} for d in theirs.feature_info] == [
            *ours.feature_info
        ]
        getters = [FeatureGetterNet(copy.deepcopy(m), out_indices=(1, -1)) for m in (theirs, ours)]
        a, b = (FeatureListNet(m, out_indices=(0, 2, 4), **options) for m in (theirs, ours))
        assert a.feature_info.channels() == b.feature_info.channels()
        for mine, other in zip(b(x), a(x), strict=True):
            close(mine, other)
        for mine, other in zip(getters[1](x), getters[0](x), strict=True):
            close(mine, other)
        hooked = [FeatureHookNet(m, out_indices=(1, 3)) for m in pair(resnet, name, "timm")]
        for mine, other in zip(hooked[1](x), hooked[0](x), strict=True):
            close(mine, other)
    features = resnet.create_model("resnet50", features_only=True, out_indices=(1, 3))
    assert features.feature_info.channels() == [256, 1024]
    assert features.feature_info.reduction() == [4, 16]
    assert features.feature_info.module_name() == ["layer1", "layer3"]


def timm_methods(resnet: Any, name: str) -> None:
    theirs, ours = pair(resnet, name, "timm")
    x = images()
    features = ours.forward_features(x)
    close(features, theirs.forward_features(x))
    close(ours.forward_head(features), theirs.forward_head(features))
    close(
        ours.forward_head(features, pre_logits=True), theirs.forward_head(features, pre_logits=True)
    )
    for options in (
        {},
        {"indices": 2},
        {"indices": [-1, 1]},
        {"indices": [0, 2], "stop_early": True, "intermediates_only": True},
        {"norm": True, "intermediates_only": True},
    ):
        close(ours.forward_intermediates(x, **options), theirs.forward_intermediates(x, **options))
    for wrong in ([5], 0, 6):
        with pytest.raises(FrameworkError, match="5 levels"):
            ours.forward_intermediates(x, wrong)
    for attribute in ("num_features", "head_hidden_size", "num_classes"):
        assert getattr(ours, attribute) == getattr(theirs, attribute), attribute
    assert type(ours.get_classifier()) is type(theirs.get_classifier())
    assert ours.get_submodule(ours.get_classifier(name_only=True)) is ours.get_classifier()
    for classes, pool in ((7, None), (5, "max"), (4, "catavgmax"), (0, None), (3, "avg")):
        theirs.reset_classifier(classes, pool), ours.reset_classifier(classes, pool)
        theirs.load_state_dict(ours.state_dict(), strict=True)
        close(ours(x), theirs(x))
        assert ours.head_hidden_size == theirs.head_hidden_size
        assert (ours.num_classes, ours.training) == (classes, False)


def gradients_are_checkpointed(resnet: Any) -> None:
    import torch

    for name in ("resnet18", "resnetv2_18"):
        model = resnet.create_model(name, dtype="float64").train()
        plain = copy.deepcopy(model)
        model.set_grad_checkpointing()
        x = images(32)
        kept = []
        for m in (plain, model):
            sizes: list[int] = []
            with torch.autograd.graph.saved_tensors_hooks(
                lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t
            ):
                y = m(x)
            kept.append(sum(sizes))
            y.square().mean().backward()
        assert kept[1] < kept[0] / 2
        for a, b in zip(plain.parameters(), model.parameters(), strict=True):
            close(b.grad, a.grad)
        for a, b in zip(plain.buffers(), model.buffers(), strict=True):
            assert torch.equal(a, b)  # the norms have seen the batch once
        model.set_grad_checkpointing(False)
        assert not model.get_submodule(model.plan.stages[0].name).grad_checkpointing


def a_new_classifier(resnet: Any) -> None:
    """After `reset_classifier` plan and spec follow, so that weights are exported and load."""
    import torch

    for name in ("resnet18", "resnetv2_18"):
        model = resnet.create_model(name, drop_rate=0.1).bfloat16()
        kept = model.state_dict()
        model.reset_classifier(11)
        assert (model.spec.num_classes, model.training) == (11, True)
        weights = resnet.export_weights(model)
        twin = resnet.create_model(model.spec, weights=weights, dtype="bfloat16")
        images = np.zeros((1, 40, 40, 3), np.float32)
        np.testing.assert_array_equal(resnet.predict(twin, images), resnet.predict(model, images))
        assert [*dict(model.named_modules())] == [*dict(twin.named_modules())]
        path = model.get_classifier(name_only=True)
        for key, tensor in model.state_dict().items():
            assert key.startswith(path) or torch.equal(tensor, kept[key])
        for classes in (0, 3):
            with pytest.raises(FrameworkError, match=r"global_pool .* forward_features\(images\)"):
                model.reset_classifier(classes, "")
    with pytest.raises(FrameworkError, match="features-only"):
        resnet.create_model("resnet18", features_only=True).reset_classifier(3)


def an_edited_model_is_not_saved(resnet: Any) -> None:
    from torch import nn

    edits: dict[str, Any] = {
        "act1": lambda m: setattr(m, "relu", nn.GELU()),
        r"layer1.0.act1": lambda m: setattr(m.layer1[0], "relu", nn.PReLU()),
        "global_pool": lambda m: setattr(m, "avgpool", nn.AdaptiveMaxPool2d(1)),
        "layer1.1.downsample": _add_downsample,
        "layer2.0.downsample.0": lambda m: setattr(m.layer2[0], "downsample", None),
        "fc": lambda m: setattr(m, "fc", nn.Conv1d(512, 10, 1, bias=False)),
        "layer4.2": lambda m: m.layer4.append(copy.deepcopy(m.layer4[1])),
        "layer2.0.downsample.2": lambda m: m.layer2[0].downsample.append(nn.Sigmoid()),
        "conv1": lambda m: setattr(m, "conv1", Halved(3, 64, 7, 2, 3, bias=False)),
    }

    class Halved(nn.Conv2d):
        def forward(self, x: Any) -> Any:
            return super().forward(x) / 2

    for layer, change in edits.items():
        model = resnet.create_model("resnet18")
        resnet.export_weights(model)
        change(model)
        with pytest.raises(WeightsError, match=f"{layer} was replaced"):
            resnet.export_weights(model)


def other_libraries_keywords(resnet: Any) -> None:
    """Their keyword is refused by the name that it has here, under which it means the same."""
    x = images(64)
    for library, name, theirs, ours in (
        ("timm", "resnet18", {"in_chans": 1}, {"in_channels": 1}),
        ("timm", "resnet18", {"global_pool": "catavgmax"}, {"head_pool": "catavgmax"}),
        ("timm", "resnet18", {"act_layer": "gelu"}, {"activation": "gelu"}),
        ("timm", "resnet18", {"norm_layer": "groupnorm"}, {"norm": "group"}),
        ("timm", "resnet18", {"down_kernel_size": 3}, {"shortcut_kernel": 3}),
        ("timm", "resnet18", {"avg_down": True}, {"shortcut_pool": "avg"}),
        ("timm", "resnet18", {"block_args": {"attn_layer": "se"}}, {"attention": "se"}),
        ("timm", "resnet50", {"cardinality": 2}, {"groups": 2}),
        ("timm", "resnet50", {"block_reduce_first": 2}, {"reduce_first": 2}),
        ("torchvision", "resnet50", {"width_per_group": 32}, {"base_width": 32}),
        ("torchvision", "resnet50", {"zero_init_residual": True}, {"zero_init_last": True}),
    ):
        if library == "timm":
            reference = timm_model(name, **theirs)
        else:
            reference = getattr(torchvision_models(), name)(**theirs)
        reference = reference.double().eval()
        model = resnet.create_model(name, dtype="float64", seed=4, **ours).eval()
        reference.load_state_dict(model.state_dict(), strict=True)
        batch = x[:, : model.spec.in_channels]
        close(model(batch), reference(batch))
        (word,), (field,) = theirs, ours
        with pytest.raises(SpecError, match=f"{word}: there is no such field; .*{field}"):
            resnet.create_model(name, **theirs)
    timm_model("resnet18", scriptable=True, exportable=True, no_jit=True)
    for word in ("scriptable", "exportable", "no_jit"):
        with pytest.raises(SpecError, match=f"{word}: .*leave it out"):
            resnet.create_model("resnet18", **{word: True})
    with pytest.raises(SpecError, match="checkpoint_path: there is no such field; it is `weights`"):
        resnet.create_model("resnet18", checkpoint_path="a.pth")
    # timm's other keywords are ours.
    reference = timm_model("resnet18", features_only=True, out_indices=(1, 3), output_stride=16)
    model = resnet.create_model(
        "resnet18", features_only=True, out_indices=(1, 3), output_stride=16
    )
    assert [tuple(y.shape) for y in reference.eval()(x.float())] == [
        tuple(y.shape) for y in model.eval()(x.float())
    ]


def pretrained_by_place(resnet: Any) -> None:
    """`create_model("resnet18", True)`, as in timm, and `resnet18(True)`, as in both."""
    for call in (resnet.resnet18, functools.partial(resnet.create_model, "resnet18")):
        with pytest.raises(UnknownModelError, match="no weights 'of_nobody' for it; expected one"):
            call("of_nobody")
        with pytest.raises(WeightsError, match="weights, pretrained: both say which"):
            call(True, weights="a.pth")
        assert call(False, num_classes=3).num_classes == 3


def timm_config(resnet: Any) -> None:
    from shared_spec.weights.preprocessing import Preprocessing

    for name in ("resnet18", "resnet50d", "resnetv2_50", "regnetz_005"):
        theirs, ours = timm_model(name), resnet.create_model(name)
        keys = {"num_classes", "input_size", "pool_size", "first_conv", "classifier"}
        assert ours.default_cfg == ours.pretrained_cfg
        assert ours.pretrained_cfg == {k: theirs.pretrained_cfg[k] for k in keys}
    from timm.data import resolve_data_config

    ours.preprocessing = Preprocessing(
        image_size=288, crop=0.9, interpolation="bicubic", mean=(0.5,) * 3, std=(0.4,) * 3
    )
    found = resolve_data_config({}, model=ours)
    assert (found["input_size"], found["crop_pct"]) == ((3, 288, 288), 0.9)
    assert (found["mean"], found["interpolation"]) == ((0.5,) * 3, "bicubic")


def timm_optimizers(resnet: Any) -> None:
    from timm.models._manipulate import group_parameters
    from timm.optim import create_optimizer_v2

    timm_model("resnet18")
    for name in ("resnet50", "resnet50d", "resnetv2_50", "resnetv2_18", "regnetz_005"):
        theirs, ours = timm_model(name), resnet.create_model(name)
        for coarse in (False, True):
            a, b = (
                group_parameters(m, m.group_matcher(coarse), reverse=True) for m in (theirs, ours)
            )
            assert a == b
        a, b = (
            create_optimizer_v2(m, "adamw", lr=0.1, weight_decay=0.01, layer_decay=0.7)
            for m in (theirs, ours)
        )
        groups = [
            [(g["lr"], g["lr_scale"], g["weight_decay"], len(g["params"])) for g in o.param_groups]
            for o in (a, b)
        ]
        assert sorted(groups[0]) == sorted(groups[1])


def quantized_sums(resnet: Any) -> None:
    """FX quantization takes as many sums, convolutions and pools into int8 as in torchvision's."""
    import torch
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.backends.quantized.engine = "fbgemm"
    x = images().float()
    for name, sums in (("resnet18", 8), ("resnet50", 16)):
        counts, kinds = [], []
        for model in pair(resnet, name):
            model = model.float()
            mapping = get_default_qconfig_mapping("fbgemm")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                prepared = prepare_fx(model, mapping, (x,))
                prepared(x)
                converted = convert_fx(prepared)
            nodes = converted.graph.nodes
            targets = [str(n.target) for n in nodes if n.op == "call_function"]
            assert sum(n.target == "dequantize" for n in nodes) == 1  # that of the logits
            counts.append(sum("quantized.add" in t or "add_relu" in t for t in targets))
            modules = [type(m).__name__ for m in converted.modules() if not [*m.children()]]
            kinds.append(Counter(targets + modules))
            assert converted(x).isfinite().all()
        assert counts == [sums, sums]
        # Ours is a mean, in int8 too.
        assert (kinds[0] - kinds[1], kinds[1] - kinds[0]) == (
            Counter({"AdaptiveAvgPool2d": 1}),
            Counter(),
        )


def wrapped_models(resnet: Any) -> None:
    """Verbs take a model inside of what PyTorch puts around it."""
    import torch
    from torch import distributed as dist
    from torch import nn
    from torch.optim.swa_utils import AveragedModel

    model = resnet.create_model("resnet20", num_classes=3)
    weights = resnet.export_weights(model)
    batch = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    logits = resnet.predict(model, batch)
    compiled = torch.compile(model, backend="eager")
    wrapped = [
        compiled,
        nn.DataParallel(model),
        AveragedModel(model),
        AveragedModel(torch.compile(model, backend="eager")),
        nn.DataParallel(torch.compile(nn.DataParallel(model), backend="eager")),
    ]
    from torch.distributed.nn import functional  # noqa: F401 - before the group: it keeps it

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        wrapped.append(nn.parallel.DistributedDataParallel(model))
        for outer in wrapped:
            np.testing.assert_allclose(resnet.predict(outer, batch), logits, rtol=1e-5, atol=1e-6)
            assert resnet.predict(model=outer, images=batch).shape == (2, 3)
            found = resnet.export_weights(outer)
            assert all(np.array_equal(found[name], weights[name]) for name in weights)
            assert list(resnet.activations(outer, batch, ["layer1.0"])) == ["layer1.0"]
            assert list(resnet.run_parts(outer, {"conv1": batch})) == ["conv1"]
            assert resnet.parameter_count(outer) == resnet.parameter_count(model)
            assert resnet.dtype_name(outer) == "float32"
            changed = {name: array + 1 for name, array in weights.items()}
            resnet.load_weights(outer, changed)
            assert np.array_equal(resnet.export_weights(outer)["fc.bias"], changed["fc.bias"])
            resnet.load_weights(outer, weights)
        ran: list[int] = []
        # What is compiled stays compiled where the model runs.
        counted = torch.compile(model, backend=lambda graph, _: ran.append(1) or graph.forward)
        resnet.predict(nn.DataParallel(counted), batch)
        assert ran
    finally:
        dist.destroy_process_group()


def devices(resnet: Any) -> None:
    """`with torch.device(...)`, as torchvision and timm have it."""
    import torch

    for name, options in (("resnet50", {}), ("resnetblur50d", {"inference": True})):
        with torch.device("meta"):
            empty = resnet.create_model(name, **options)
        tensors = [*empty.parameters(), *empty.buffers()]
        assert all(t.is_meta for t in tensors)
        assert empty(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 1000)
    with torch.device("meta"):
        empty = resnet.create_model("resnetblur18", depths=[1, 1], widths=[16, 16]).eval()
    full = resnet.create_model(empty.spec, seed=3).eval()
    array = np.zeros((1, 32, 32, 3), np.float32)
    for verb in (
        resnet.export_weights,
        resnet.compiled,
        lambda m: resnet.load_weights(m, full.state_dict()),
        lambda m: resnet.predict(m, array),
        lambda m: resnet.activations(m, array),
        lambda m: resnet.run_parts(m, {"conv1": array}),
    ):
        with pytest.raises(WeightsError, match="meta device and has no values"):
            verb(empty)
    empty.to_empty(device="cpu")
    resnet.load_weights(empty, resnet.export_weights(full))
    x = images(32).float()
    torch.testing.assert_close(empty(x), full(x), rtol=0, atol=0)  # the blur's filter too
    kept = resnet.create_model("resnet20")
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        with torch.device(device):
            model = resnet.create_model("resnet20")
            full = resnet.create_model(
                "resnet20", weights=resnet.export_weights(kept), num_classes=4
            )
        for m in (model, full):
            assert {t.device.type for t in m.state_dict().values()} == {device}
        assert torch.equal(model.fc.weight.cpu(), kept.fc.weight)
    torch.set_default_device("meta")
    try:
        assert resnet.create_model("resnet20").fc.weight.is_meta
    finally:
        torch.set_default_device(None)


def devices_that_are_not_here(resnet: Any) -> None:
    """With fake tensors of a GPU, `torch.export` gives the graph that it gives on a CPU, and all
    values are the GPU's: what docs/accelerators.md shows.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    fake = FakeTensorMode()

    def on_gpu(x: torch.Tensor) -> torch.Tensor:
        return FakeTensor(fake, torch.empty_like(x, device="meta"), torch.device("cuda:0"))

    x = torch.zeros(2, 3, 32, 32)
    here = resnet.create_model("resnet18", depths=[1], widths=[16]).eval()
    there = copy.deepcopy(here)
    for module in there.modules():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = torch.nn.Parameter(on_gpu(value.detach()), False)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = on_gpu(value)
    far_away = on_gpu(x)
    with fake:
        far = torch.export.export(there, (far_away,)).graph.nodes
    near = torch.export.export(here, (x,)).graph.nodes
    assert [(n.op, str(n.target)) for n in far] == [(n.op, str(n.target)) for n in near]
    values = [n.meta["val"] for n in far if isinstance(n.meta.get("val"), torch.Tensor)]
    assert {str(v.device) for v in values} == {"cuda:0"}
    shapes = [n.meta["val"].shape for n in near if isinstance(n.meta.get("val"), torch.Tensor)]
    assert [v.shape for v in values] == shapes
    assert len(values) > 20


def default_dtype(resnet: Any) -> None:
    import torch

    torch.set_default_dtype(torch.float64)
    try:
        assert resnet.dtype_name(resnet.create_model("resnet20")) == "float64"
        assert torchvision_models().resnet18().fc.weight.dtype == torch.float64
        assert resnet.dtype_name(resnet.create_model("resnet20", dtype="float16")) == "float16"
    finally:
        torch.set_default_dtype(torch.float32)
    assert resnet.dtype_name(resnet.create_model("resnet20")) == "float32"
    assert resnet.dtype_name(resnet.create_model("resnet20", dtype=torch.bfloat16)) == "bfloat16"
    with pytest.raises(WeightsError, match="'int8' is not one of"):
        resnet.create_model("resnet20", dtype=torch.int8)


def copies(resnet: Any) -> None:
    """Aliases and edits survive deepcopy, pickle, `torch.save`; and compile as one graph."""
    import torch
    from torch import nn

    class ByHand(nn.Module):
        def __init__(self, net: Any) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Any) -> Any:
            x = self.net.relu(self.net.bn1(self.net.conv1(x)))
            block = self.net.layer1[0]
            y = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(x)))))
            return block.relu(y + x)

    _, model = pair(resnet, "resnet18")
    model.avgpool = nn.AdaptiveMaxPool2d(1)
    model.layer1[0].relu = nn.GELU()
    x = images(32)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),  # noqa: S301 ours
        torch.load(file, weights_only=False),
        torch.compile(model, fullgraph=True, backend="aot_eager"),
        torch.export.export(model, (x,)).module(),
    ):
        close(twin(x), model(x))
        if isinstance(twin, type(model)):
            assert type(twin.avgpool) is nn.AdaptiveMaxPool2d
            assert twin.layer1[0].relu is twin.layer1[0].act2
    # And so does what runs the layers of one by hand.
    by_hand = ByHand(pair(resnet, "resnet18")[1])
    for twin in (
        torch.compile(by_hand, fullgraph=True, backend="eager"),
        torch.export.export(by_hand, (x,)).module(),
        torch.fx.symbolic_trace(by_hand),
    ):
        close(twin(x), by_hand(x))
    close(by_hand(x), ByHand(pair(resnet, "resnet18")[0])(x))
    text = str(resnet.create_model("resnet18"))
    assert "(global_pool): GlobalPool(" in text
    assert len(text) < 8_000


def recorded(resnet: Any, name: str, options: dict[str, Any]) -> None:
    """TorchScript, saved and loaded, and `torch.fx` give the model's outputs, in its own paths."""
    import torch

    model = resnet.create_model(name, seed=2, dtype="float64", **options).eval()
    x = images(32)
    y = model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and used
        scripted = torch.jit.script(model)
        file = io.BytesIO()
        torch.jit.save(scripted, file)
        file.seek(0)
        loaded = torch.jit.load(file)
        inside = torch.jit.script(torch.nn.Sequential(copy.deepcopy(model)))
    for other in (scripted, loaded, inside, torch.fx.symbolic_trace(model)):
        close(other(x), y)
    keys = {k for k in scripted.state_dict() if not k.endswith(".filter")}
    assert keys == set(model.state_dict())
    assert type(model.get_submodule(model.plan.stages[0].name)).__name__ == "Stage"
    model.train()
    torch.fx.symbolic_trace(model)(x)
    if "drop_block_rate" not in options:
        # The statistics move as in the model, and the weights are the model's own.
        twin = copy.deepcopy(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scripted = torch.jit.script(twin)
        torch.manual_seed(0)
        expected = model(x)
        torch.manual_seed(0)
        close(scripted(x), expected)
        close(twin.state_dict(), model.state_dict())


def other_tools(resnet: Any) -> None:
    """Other things that are done with a model."""
    import torch
    from torch import nn

    timm_model("resnet18")
    from timm.utils import ModelEmaV3, freeze, unfreeze

    theirs, model = pair(resnet, "resnet18", "timm")
    x = images(32)
    assert model.train(False) is model
    functional = torch.func.functional_call(model, dict(model.named_parameters()), (x,))
    close(functional, theirs(x))
    for m in (theirs, model):
        freeze(m, ["conv1", "bn1", "layer1"])
    frozen = [[n for n, p in m.named_parameters() if p.requires_grad] for m in (theirs, model)]
    assert frozen[0] == frozen[1]
    close(model(x), theirs(x))
    for m in (theirs, model):
        unfreeze(m, ["conv1", "bn1", "layer1"])
        m.eval()  # timm's new norms are in training mode
    average = ModelEmaV3(model)
    average.update(model)
    close(average(x), theirs(x))
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert type(synced.layer1[0].bn1) is nn.SyncBatchNorm
    close(synced(x), theirs(x))
    assert model.half()(x.half()).dtype == torch.float16
