"""The recipe from nothing to a model, stage by stage."""

STAGES = (
    "autoencoder",
    "decoder",
    "latents",
    "direct",
    "teacher",
    "pairs",
    "causal",
    "intra_shot",
    "inter_shot",
    "export",
)
