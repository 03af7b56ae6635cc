"""The names that some settings may have, for shells that complete them: their tables need torch, which takes a second.

Written by docs/scripts/settings.py, from the tables.
"""

NAMES: dict[str, tuple[str, ...]] = {
    "sampler": (
        "ddpm",
        "ddim",
        "euler",
        "euler_ancestral",
        "heun",
        "dpmpp_2m",
        "dpmpp_sde",
        "dpmpp_2m_sde",
        "dpmpp_2s_ancestral",
        "dpmpp_3m_sde",
        "lms",
        "dpm_2",
        "dpm_2_ancestral",
        "pndm",
        "uni_pc",
        "lcm",
    ),
    "schedule": (
        "uniform",
        "karras",
        "exponential",
        "polyexponential",
        "sgm_uniform",
        "simple",
        "normal",
        "ddim_uniform",
        "beta",
        "kl_optimal",
        "align_your_steps",
        "lcm",
    ),
    "hires_upscaler": (
        "latent",
        "latent-antialiased",
        "latent-bicubic",
        "latent-bicubic-antialiased",
        "latent-nearest",
        "latent-nearest-exact",
        "lanczos",
        "nearest",
    ),
    "masked_content": (
        "original",
        "fill",
        "latent-noise",
        "latent-nothing",
    ),
    "tileable": (
        "both",
        "x",
        "y",
        "no",
    ),
    "like": (
        "diffusers",
        "a1111",
        "comfyui",
    ),
}
