"""The hosts for MaskFormer against mmdet's pixel decoders, a loop over stages, and its heads."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("mmdet", reason="needs mmdet: bash tools/setup_env.sh installs it")

from mmdet.models.dense_heads import MaskFormerHead
from mmdet.models.layers import PixelDecoder, TransformerEncoderPixelDecoder
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict

from mmdysample import Nearest, list_upsamplers
from mmdysample.mmdet import UpsampleMaskFormerHead
from mmdysample.mmdet.pixel_decoder import (
    UpsamplePixelDecoder,
    UpsampleTransformerEncoderPixelDecoder,
)
from tests.loaders import LENIENT
from tests.reference.dysample import dysample_torch
from tests.utils import DYSAMPLE_VARIANTS, assert_close, fit, randomize

IN_CHANNELS = [8, 16, 24, 48]
CHANNELS = 32
OUT_CHANNELS = 40
SIZES = {
    "even": [(32, 48), (16, 24), (8, 12), (4, 6)],
    "odd": [(41, 61), (21, 31), (11, 16), (6, 8)],
    "floored": [(67, 45), (33, 22), (16, 11), (8, 5)],
}
VARIANTS = {name: dict(type="DySample", **cfg) for name, cfg in DYSAMPLE_VARIANTS.items()}
ENCODER = ConfigDict(
    num_layers=1,
    layer_cfg=dict(
        self_attn_cfg=dict(embed_dims=CHANNELS, num_heads=4, batch_first=True),
        ffn_cfg=dict(embed_dims=CHANNELS, feedforward_channels=64, num_fcs=2, ffn_drop=0.0),
    ),
)
HOSTS = {
    "plain": (UpsamplePixelDecoder, PixelDecoder, {}),
    "encoder": (
        UpsampleTransformerEncoderPixelDecoder,
        TransformerEncoderPixelDecoder,
        dict(encoder=ENCODER, positional_encoding=dict(num_feats=CHANNELS // 2, normalize=True)),
    ),
}
every_host = pytest.mark.parametrize("host", HOSTS)
every_size = pytest.mark.parametrize("sizes", SIZES)


def make_inputs(sizes="odd", batch=2) -> list[Tensor]:
    """As a backbone gives them: fine to coarse, each half as large, rounded up or down."""
    shapes = zip(IN_CHANNELS, SIZES[sizes], strict=True)
    return [torch.randn(batch, channels, *size) for channels, size in shapes]


def make_metas(sizes="odd", batch=2) -> list[dict]:
    """The last image of the batch is smaller than the others, padded."""
    height, width = (4 * length for length in SIZES[sizes][0])
    metas = [dict(batch_input_shape=(height, width), img_shape=(height, width))] * (batch - 1)
    return [*metas, dict(batch_input_shape=(height, width), img_shape=(height - 40, width - 70))]


def make(host="plain", *, upstream=False, **kwargs) -> nn.Module:
    cls, theirs, settings = HOSTS[host]
    decoder = (theirs if upstream else cls)(
        IN_CHANNELS,
        CHANNELS,
        OUT_CHANNELS,
        norm_cfg=dict(type="GN", num_groups=4),
        **copy.deepcopy(settings),
        **kwargs,
    )
    return randomize(decoder)


def assert_bit_equal(ours: nn.Module, upstream: nn.Module, inputs: list[Tensor], *rest) -> None:
    """Outputs, and gradients of inputs and parameters, after loading the upstream's weights."""
    ours.load_state_dict(upstream.state_dict(), strict=True)
    results = []
    for decoder in (ours, upstream):
        leaves = [x.clone().requires_grad_() for x in inputs]
        mask_feature, memory = decoder(leaves, *rest)
        outs = [mask_feature, *(memory if isinstance(memory, list) else [memory])]
        torch.manual_seed(1)
        sum((out * torch.randn_like(out)).sum() for out in outs).backward()
        grads = {name: p.grad for name, p in decoder.named_parameters()}
        results.append((outs, [x.grad for x in leaves], grads))
    (outs, x_grads, grads), (their_outs, their_x_grads, their_grads) = results
    assert len(outs) == len(their_outs) and all(map(torch.equal, outs, their_outs))
    assert all(map(torch.equal, x_grads, their_x_grads))
    assert grads.keys() == their_grads.keys()
    for name, grad in grads.items():
        theirs = their_grads[name]
        assert (grad is None and theirs is None) or torch.equal(grad, theirs), name


@every_size
@pytest.mark.parametrize("cfg", [None, dict(type="Nearest")], ids=["default", "Nearest"])
@every_host
def test_nearest_is_mmdets_pixel_decoder(host, cfg, sizes):
    ours = make(host, upsample_cfg=cfg).eval()
    upstream = make(host, upstream=True).eval()
    assert_bit_equal(ours, upstream, make_inputs(sizes), make_metas(sizes))


def test_other_layers_are_mmdets_too():
    layers = dict(norm_cfg=None, act_cfg=dict(type="LeakyReLU"))
    ours = UpsamplePixelDecoder(IN_CHANNELS, CHANNELS, OUT_CHANNELS, **layers)
    upstream = randomize(PixelDecoder(IN_CHANNELS, CHANNELS, OUT_CHANNELS, **layers))
    assert_bit_equal(ours, upstream, make_inputs(), make_metas())


@pytest.mark.parametrize("levels", [1, 2])
def test_fewer_levels(levels):
    """One level has nothing to climb."""
    ours = UpsamplePixelDecoder(IN_CHANNELS[-levels:], CHANNELS, OUT_CHANNELS)
    assert len(ours.upsample_modules) == levels - 1
    upstream = randomize(PixelDecoder(IN_CHANNELS[-levels:], CHANNELS, OUT_CHANNELS))
    assert_bit_equal(ours, upstream, make_inputs()[-levels:], make_metas())


@every_size
@pytest.mark.parametrize("variant", VARIANTS)
@every_host
def test_each_stage_upsamples_what_it_should(host, variant, sizes):
    """Stage N climbs from level N + 1 to lateral N, coarse to fine, fitted at the end."""
    # in float64, and moving by whole pixels: stages that changed places would show
    decoder = make(host, upsample_cfg=VARIANTS[variant]).eval().double()
    inputs, metas = [x.double() for x in make_inputs(sizes)], make_metas(sizes)
    mask_feature, memory = decoder(inputs, metas)
    if host == "plain":
        assert memory is inputs[-1]
        y = decoder.last_feat_conv(inputs[-1])
    else:
        y = decoder.encoder_out_proj(memory)
    for n in (2, 1, 0):
        up = decoder.upsample_modules[n]
        scope = (up.scope.weight,) if up.dyscope else ()
        fine = dysample_torch(
            y, up.offset.weight, up.offset.bias, *scope, groups=up.groups, style=up.style
        )
        lateral = decoder.lateral_convs[n](inputs[n])
        y = decoder.output_convs[n](lateral + fit(fine, *lateral.shape[2:]))
    assert_close(mask_feature, decoder.mask_feature(y))


class Recorder(Nearest):
    """Nearest interpolation that asks for a guide and keeps it."""

    guided = True
    any_size = False

    def forward(self, x, guide=None, size=None):
        self.x, self.guide = x, guide
        return super().forward(x, guide, size)


@every_host
def test_the_guide_is_the_lateral(host):
    decoder = make(host, upsample_cfg=dict(type=Recorder)).eval()
    inputs = make_inputs()
    decoder(inputs, make_metas())
    assert len(decoder.upsample_modules) == 3
    for n, stage in enumerate(decoder.upsample_modules):
        assert (stage.in_channels, stage.guide_channels, stage.scale_factor) == (32, 32, 2)
        assert torch.equal(stage.guide, decoder.lateral_convs[n](inputs[n]))


@pytest.mark.parametrize("name", list_upsamplers())
@every_host
def test_every_upsampler_passes_through(host, name):
    decoder = make(host, upsample_cfg=dict(type=name))
    decoder.init_weights()
    inputs, metas = make_inputs(), make_metas()
    mask_feature, _ = decoder(inputs, metas)
    assert mask_feature.shape == (2, OUT_CHANNELS, *SIZES["odd"][0])
    mask_feature.square().mean().backward()
    for key, parameter in decoder.upsample_modules.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key


@every_host
def test_upsamplers_keep_their_own_initialization(host):
    decoder = make(host, upsample_cfg=dict(type="DySample", dyscope=True))
    randomize(decoder, 77.0)
    decoder.init_weights()
    for stage in decoder.upsample_modules:
        assert 0.0009 < stage.offset.weight.std() < 0.0011
        assert not stage.offset.bias.any() and not stage.scope.weight.any()
    # Xavier-uniform, as mmdet does it
    assert decoder.mask_feature.weight.abs().max() < 1 and not decoder.mask_feature.bias.any()


@pytest.mark.parametrize("variant", VARIANTS)
@every_host
def test_state_dict_names(host, variant):
    names = {"offset.weight", "offset.bias", "init_pos"}
    if variant.endswith("+"):
        names.add("scope.weight")
    expected = {f"upsample_modules.{n}.{name}" for n in range(3) for name in names}
    expected |= make(host, upstream=True).state_dict().keys()
    assert make(host, upsample_cfg=VARIANTS[variant]).state_dict().keys() == expected


@pytest.mark.parametrize("load", LENIENT)
@every_host
def test_a_checkpoint_of_mmdets_pixel_decoder_loads(host, load, tmp_path):
    upstream = make(host, upstream=True)
    decoder = make(host, upsample_cfg=dict(type="DySample"))
    ours = {k: v.clone() for k, v in decoder.state_dict().items() if k.startswith("upsample")}
    load(decoder, upstream.state_dict(), tmp_path)
    state = decoder.state_dict()
    for name, value in (upstream.state_dict() | ours).items():
        assert torch.equal(state[name], value), name


def make_head(cls, decoder="PixelDecoder", in_channels=IN_CHANNELS, **kwargs) -> nn.Module:
    attention = dict(embed_dims=CHANNELS, num_heads=4, batch_first=True)
    settings = dict(
        in_channels=list(in_channels),
        feat_channels=CHANNELS,
        out_channels=CHANNELS,
        num_queries=5,
        pixel_decoder=ConfigDict(type=decoder, norm_cfg=dict(type="GN", num_groups=4)),
        positional_encoding=dict(num_feats=CHANNELS // 2, normalize=True),
        transformer_decoder=ConfigDict(
            return_intermediate=True,
            num_layers=2,
            layer_cfg=dict(
                self_attn_cfg=attention,
                cross_attn_cfg=attention,
                ffn_cfg=dict(embed_dims=CHANNELS, feedforward_channels=64, num_fcs=2),
            ),
            init_cfg=None,
        ),
        loss_cls=ConfigDict(type="CrossEntropyLoss", class_weight=[1.0] * 133 + [0.1]),
        loss_mask=ConfigDict(type="FocalLoss"),
        loss_dice=ConfigDict(type="DiceLoss"),
    )
    if decoder.endswith("TransformerEncoderPixelDecoder"):
        settings["pixel_decoder"].update(copy.deepcopy(HOSTS["encoder"][2]))
    return cls(**settings | kwargs)


def assert_same_projection(ours: nn.Module, upstream: nn.Module) -> None:
    assert isinstance(upstream.decoder_input_proj, nn.Conv2d)
    assert repr(ours.decoder_input_proj) == repr(upstream.decoder_input_proj)
    ours.load_state_dict(upstream.state_dict(), strict=True)


def assert_same_outputs(ours: nn.Module, upstream: nn.Module, inputs: list[Tensor]) -> None:
    samples = [DetDataSample(metainfo=meta) for meta in make_metas()]
    for mine, theirs in zip(ours(inputs, samples), upstream(inputs, samples), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("channels", "enforce"),
    [(48, False), (48, True), (CHANNELS, True)],
    ids=["other-channels", "other-channels-enforced", "same-channels-enforced"],
)
def test_the_head_keeps_its_input_projection(channels, enforce):
    """With equal channels a lost projection would raise no error: the head would just be worse."""
    settings = dict(
        in_channels=[*IN_CHANNELS[:-1], channels], enforce_decoder_input_project=enforce
    )
    ours = make_head(UpsampleMaskFormerHead, **settings).eval()
    upstream = randomize(make_head(MaskFormerHead, **settings)).eval()
    assert type(ours.pixel_decoder) is UpsamplePixelDecoder
    assert_same_projection(ours, upstream)
    inputs = [*make_inputs()[:-1], torch.randn(2, channels, *SIZES["odd"][-1])]
    assert_same_outputs(ours, upstream, inputs)


def test_a_decoder_with_an_encoder_needs_no_projection():
    """Its memory has the transformer's channels already."""
    ours = make_head(UpsampleMaskFormerHead, "TransformerEncoderPixelDecoder").eval()
    upstream = randomize(make_head(MaskFormerHead, "TransformerEncoderPixelDecoder")).eval()
    assert type(ours.pixel_decoder) is UpsampleTransformerEncoderPixelDecoder
    assert isinstance(ours.decoder_input_proj, nn.Identity)
    ours.load_state_dict(upstream.state_dict(), strict=True)
    assert_same_outputs(ours, upstream, make_inputs())


def test_mmsegs_head_keeps_its_input_projection():
    pytest.importorskip("mmseg", reason="needs mmseg: bash tools/setup_env.sh installs it")
    from mmseg.models.decode_heads import MaskFormerHead as MMSegMaskFormerHead

    from mmdysample.mmseg.maskformer_head import UpsampleMaskFormerHead as MMSegHost

    settings = dict(decoder="mmdet.PixelDecoder", num_classes=7, enforce_decoder_input_project=True)
    for channels in (48, CHANNELS):
        settings["in_channels"] = [*IN_CHANNELS[:-1], channels]
        ours = make_head(MMSegHost, upsample_cfg=dict(type="Nearest"), **settings)
        assert type(ours.pixel_decoder) is UpsamplePixelDecoder
        assert_same_projection(ours, make_head(MMSegMaskFormerHead, **settings))


def test_the_head_gives_its_upsamplers_to_the_decoder():
    cfg = dict(type="DySample", groups=8)
    head = make_head(UpsampleMaskFormerHead, upsample_cfg=cfg)
    assert [stage.groups for stage in head.pixel_decoder.upsample_modules] == [8, 8, 8]
    assert cfg == dict(type="DySample", groups=8)


def test_a_decoder_without_a_host_is_refused():
    @MODELS.register_module(force=True)
    class MyPixelDecoder(PixelDecoder):
        pass

    try:
        with pytest.raises(ValueError, match=r"PixelDecoder or Trans.*got MyPixelDecoder"):
            make_head(UpsampleMaskFormerHead, "MyPixelDecoder")
    finally:
        MODELS.module_dict.pop("MyPixelDecoder")


@every_host
def test_a_class_is_equal_to_itself_alone(host):
    ours, theirs, _ = HOSTS[host]
    assert ours != theirs and theirs != ours
    assert theirs not in [ours] and theirs not in {ours}


@every_host
def test_a_replica_computes_with_its_own_weights(host):
    """As under nn.DataParallel, which gives the layers of a shallow copy other weights."""
    decoder = make(host, upsample_cfg=dict(type="DySample")).eval()
    inputs, metas = make_inputs(), make_metas()
    other = randomize(copy.deepcopy(decoder))
    expected, _ = other(inputs, metas)
    replica = decoder._replicate_for_data_parallel()
    for name, child in other.named_children():
        replica._modules[name] = child
    assert torch.equal(replica(inputs, metas)[0], expected)


@every_host
def test_copies_stand_for_themselves(host):
    decoder = make(host, upsample_cfg=dict(type="DySample")).eval()
    inputs, metas = make_inputs(), make_metas()
    expected, _ = decoder(inputs, metas)
    copies = [copy.deepcopy(decoder), pickle.loads(pickle.dumps(decoder))]
    randomize(decoder, 3.0)
    for other in copies:
        assert type(other) is type(decoder)
        assert torch.equal(other(inputs, metas)[0], expected)
    assert not torch.equal(decoder(inputs, metas)[0], expected)


def test_threads_may_share_a_decoder():
    decoder = make(upsample_cfg=dict(type="DySample")).eval()
    inputs = [make_inputs(sizes) for sizes in SIZES for _ in range(2)]
    with torch.no_grad():
        expected = [decoder(x, make_metas())[0] for x in inputs]
    results: list[list[Tensor]] = [[] for _ in inputs]

    def run(n: int) -> None:
        with torch.no_grad():
            results[n] += [decoder(inputs[n], make_metas())[0] for _ in range(5)]

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for outs, reference in zip(results, expected, strict=True):
        assert len(outs) == 5
        for out in outs:
            assert_close(out, reference)


def test_user_errors():
    with pytest.raises(TypeError, match=r"dict with the key 'type'.*got \{'mode': 'nearest'\}"):
        make(upsample_cfg=dict(mode="nearest"))
    with pytest.raises(ValueError, match=r"upsample_cfg sets in_channels=256.*needs 32 here"):
        make(upsample_cfg=dict(type="DySample", in_channels=256))
    with pytest.raises(ValueError, match=r"unknown upsampler 'DySampel'.*mean 'DySample'"):
        make(upsample_cfg=dict(type="DySampel"))


@pytest.mark.parametrize("name", ["Nearest", "DySample", "SAPA"])
@pytest.mark.parametrize("norm_cfg", [None, dict(type="GN", num_groups=4)], ids=["plain", "gn"])
def test_autocast(norm_cfg, name):
    decoder = UpsamplePixelDecoder(
        IN_CHANNELS, CHANNELS, OUT_CHANNELS, norm_cfg=norm_cfg, upsample_cfg=dict(type=name)
    )
    randomize(decoder.eval())
    inputs = make_inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = decoder(inputs, make_metas())
    assert out.dtype == torch.bfloat16
    expected, _ = decoder(inputs, make_metas())
    # Layers that round to 8 bits one after the other: a few percent of the values' spread.
    assert (out.float() - expected).std() < 0.05 * expected.std()


def test_compiles_in_one_graph():
    decoder = make(upsample_cfg=dict(type="DySample")).eval()
    torch.compiler.reset()
    compiled = torch.compile(decoder, fullgraph=True, backend="aot_eager")
    inputs, metas = make_inputs(), make_metas()
    assert_close(compiled(inputs, metas)[0], decoder(inputs, metas)[0])
