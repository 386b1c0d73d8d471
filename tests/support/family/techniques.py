"""The techniques of the R2Gen family as settings of tiny models."""

TECHNIQUES = {
    "r2gen": ("model.decoder.norms=memory", "model.decoder.memory_slots=2", "model.decoder.memory_heads=2"),
    "camanet": ("model.discriminative_map=true", "loss.attention_consistency=0.5", "loss.observations=1"),
    "xpronet": (
        "model.prototypes.per_observation=3", "model.prototypes.channels=12", "model.prototypes.heads=2",
        "model.prototypes.responding=4", "loss.image_contrast=1", "loss.text_contrast=0.1",
    ),
    "cmn": (
        "model.cross_modal_memory.rows=10", "model.cross_modal_memory.heads=2",
        "model.cross_modal_memory.responding=3",
    ),
}
# As published, on the base that the family shares; and added to this project's own model.
PUBLISHED = (
    "model.graph_in=none", "model.norm=std", "model.activation=relu", "model.patch_projection=relu",
    "model.patch_positions=true",
)
WITH_GRAPH = ("model.graph_in=both",)
CASES = {
    f"{name}, {base}": (*settings, *base_settings)
    for name, settings in TECHNIQUES.items()
    for base, base_settings in (("published", PUBLISHED), ("with graph", WITH_GRAPH))
}
# Where a test takes seconds, the techniques share models.
COMBINED = {
    "camanet, cmn and r2gen, with graph": (
        *TECHNIQUES["camanet"], *TECHNIQUES["cmn"], *TECHNIQUES["r2gen"], *WITH_GRAPH,
    ),
    "xpronet, published": (*TECHNIQUES["xpronet"], *PUBLISHED),
}
# Initial attention is almost uniform; stretched to 0..1, as CAMANet does, its rounding errors would be seen.
LIVELY = ("model.initial_std=0.15",)
