"""The model with the fewest parameters of every timm model module, and its input size in pixels.

    .venv/bin/python tests/models/smallest_timm.py     # prints the table anew, for another version of timm: minutes

Models are built without memory for their weights, so that all of them can be counted.
"""

from __future__ import annotations

SMALLEST = {
    "beit": ("beit_base_patch16_224", 224),
    "byoanet": ("halonet_h1", 256),
    "byobnet": ("test_byobnet", 160),
    "cait": ("cait_xxs24_224", 224),
    "coat": ("coat_tiny", 224),
    "convit": ("convit_tiny", 224),
    "convmixer": ("convmixer_768_32", 224),
    "convnext": ("test_convnext", 160),
    "cpubone": ("cpubone_nano", 224),
    "crossvit": ("crossvit_tiny_240", 240),
    "csatv2": ("csatv2", 512),
    "cspnet": ("cs3darknet_focus_s", 256),
    "cspnext": ("cspnext_tiny", 224),
    "davit": ("davit_tiny", 224),
    "deepseek_vit": ("deepseek_vit_412m", 546),
    "deit": ("deit_tiny_patch16_224", 224),
    "densenet": ("densenet121", 224),
    "dla": ("dla46x_c", 224),
    "dpn": ("dpn48b", 224),
    "edgenext": ("edgenext_xx_small", 256),
    "efficientformer": ("efficientformer_l1", 224),
    "efficientformer_v2": ("efficientformerv2_s0", 224),
    "efficientnet": ("test_efficientnet", 160),
    "efficientvim": ("efficientvim_m1", 224),
    "efficientvit_mit": ("efficientvit_b0", 224),
    "efficientvit_msra": ("efficientvit_m0", 224),
    "eva": ("vit_tiny_patch16_dinov3_qkvb", 256),
    "fasternet": ("fasternet_t0", 224),
    "fastvit": ("fastvit_t8", 256),
    "focalnet": ("focalnet_tiny_srf", 224),
    "gcvit": ("gcvit_xxtiny", 224),
    "gemma4_vit": ("gemma4_vit_167m", 768),
    "ghostnet": ("ghostnet_050", 224),
    "hardcorenas": ("hardcorenas_b", 224),
    "hgnet": ("hgnetv2_b0", 224),
    "hiera": ("hiera_tiny_224", 224),
    "hieradet_sam2": ("sam2_hiera_tiny", 896),
    "hrnet": ("hrnet_w18_small", 224),
    "iformer": ("iformer_t", 224),
    "inception_next": ("inception_next_atto", 224),
    "inception_resnet_v2": ("inception_resnet_v2", 299),
    "inception_v3": ("inception_v3", 299),
    "inception_v4": ("inception_v4", 299),
    "lcnetv2": ("lcnetv2_small", 224),
    "levit": ("levit_128s", 224),
    "lowformer": ("lowformer_b0", 224),
    "mambaout": ("test_mambaout", 160),
    "maxxvit": ("test_coatnet", 160),
    "metaformer": ("poolformerv2_s12", 224),
    "mlp_mixer": ("gmlp_ti16_224", 224),
    "mobilenetv3": ("mobilenetv3_small_050", 224),
    "mobilenetv5": ("mobilenetv5_base", 256),
    "mobilevit": ("mobilevit_xxs", 256),
    "mvitv2": ("mvitv2_tiny", 224),
    "naflexvit": ("naflexvit_base_patch16_parfac_gap", 384),
    "nasnet": ("nasnetalarge", 331),
    "nest": ("nest_tiny", 224),
    "nextvit": ("nextvit_small", 224),
    "nfnet": ("test_nfnet", 160),
    "pit": ("pit_ti_224", 224),
    "pnasnet": ("pnasnet5large", 331),
    "pvt_v2": ("pvt_v2_b0", 224),
    "qwen3_vit": ("qwen3_vit_88m", 768),
    "rdnet": ("rdnet_tiny", 224),
    "regnet": ("regnetx_002", 224),
    "repghost": ("repghostnet_050", 224),
    "repvit": ("repvit_m1", 224),
    "res2net": ("res2next50", 224),
    "resnest": ("resnest14d", 224),
    "resnet": ("test_resnet", 160),
    "resnetv2": ("resnetv2_18", 224),
    "rexnet": ("rexnet_100", 224),
    "selecsls": ("selecsls42", 224),
    "senet": ("legacy_seresnet18", 224),
    "sequencer": ("sequencer2d_s", 224),
    "shvit": ("shvit_s1", 224),
    "sknet": ("skresnet18", 224),
    "starnet": ("starnet_s050", 224),
    "swiftformer": ("swiftformer_xs", 224),
    "swin_transformer": ("swin_tiny_patch4_window7_224", 224),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", 256),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", 224),
    "tiny_vit": ("tiny_vit_5m_224", 224),
    "tnt": ("tnt_s_legacy_patch16_224", 224),
    "tresnet": ("tresnet_m", 224),
    "twins": ("twins_svt_small", 224),
    "vgg": ("vgg11", 224),
    "visformer": ("visformer_tiny", 224),
    "vision_transformer": ("test_vit", 160),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", 224),
    "vision_transformer_relpos": ("test_vit_relpos", 160),
    "vision_transformer_sam": ("samvit_base_patch16_224", 224),
    "vitamin": ("vitamin_small_224", 224),
    "volo": ("volo_d1_224", 224),
    "vovnet": ("ese_vovnet19b_slim_dw", 224),
    "xception": ("legacy_xception", 299),
    "xception_aligned": ("xception41p", 299),
    "xcit": ("xcit_nano_12_p8_224", 224),
}


def main() -> None:
    import timm
    import torch

    for module in sorted(timm.list_modules()):
        sizes = []
        for name in timm.list_models(module=module):
            with torch.device("meta"):
                model = timm.create_model(name)
            pixels = model.default_cfg["input_size"][1]
            sizes.append((sum(p.numel() for p in model.parameters()), name, pixels))
        _, name, pixels = min(sizes)
        print(f'    "{module}": ("{name}", {pixels}),')


if __name__ == "__main__":
    main()
