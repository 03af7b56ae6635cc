"""A1111's lists of what there is, with exactly its keys: strict clients break on one more and on one less."""

import re
from typing import Any

from diafano.pictures.upscaling import UPSCALERS
from diafano.sampling.samplers.table import SAMPLERS
from diafano.sampling.sigmas import SCHEDULES

OURS_FIRST = ("dpmpp_2m", "dpmpp_sde", "dpmpp_2m_sde", "euler_ancestral", "euler")
RHO = {"karras": 7.0, "polyexponential": 1.0}


def samplers() -> list[dict[str, Any]]:
    """Those that work, by A1111's names; options are texts, as there."""
    rows = sorted(SAMPLERS.values(), key=lambda row: OURS_FIRST.index(row.name) if row.name in OURS_FIRST else 99)
    return [
        {
            "name": row.label,
            "aliases": [row.name, *row.aliases],
            "options": {"scheduler": row.schedule} if row.schedule != "uniform" else {},
        }
        for row in rows
    ]


def schedulers() -> list[dict[str, Any]]:
    """With `automatic` first."""
    first = {"name": "automatic", "label": "Automatic", "aliases": None, "default_rho": -1.0, "need_inner_model": False}
    return [
        first,
        *(
            {
                "name": row.name,
                "label": row.label,
                "aliases": list(row.aliases) or None,
                "default_rho": RHO.get(row.name, -1.0),
                "need_inner_model": False,
            }
            for row in SCHEDULES.values()
        ),
    ]


def upscalers() -> list[dict[str, Any]]:
    """Those of pixels."""
    pixels = [one.label for one in UPSCALERS.values() if one.mode is None]
    return [
        {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4}
        for name in ("None", *pixels)
    ]


def latent_modes() -> list[dict[str, Any]]:
    return [{"name": one.label} for one in UPSCALERS.values() if one.mode is not None]


def models(names: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "title": name,  # as `options` has it: clients look for the very same text
            "model_name": name,
            "hash": None,
            "sha256": None,
            "filename": re.sub(r".*[/\\]", "", str(path)),
            "config": None,
        }
        for name, path in names.items()
    ]


def options(model: str) -> dict[str, Any]:
    """The settings that clients read, and some post back whole."""
    return {
        "samples_save": True,
        "samples_format": "png",
        "outdir_samples": "",
        "outdir_txt2img_samples": "",
        "outdir_img2img_samples": "",
        "outdir_extras_samples": "",
        "sd_model_checkpoint": model,
        "sd_checkpoint_hash": "",
        "sd_vae": "Automatic",
        "CLIP_stop_at_last_layers": 1,
        "eta_noise_seed_delta": 0,
        "randn_source": "CPU",
        "show_progress_every_n_steps": 1,
        "live_previews_enable": True,
        "img2img_color_correction": False,
        "upscaler_for_img2img": "None",
        "s_churn": 0.0,
        "s_tmin": 0.0,
        "s_noise": 1.0,
    }
