"""The decoder's layers and the selective scan. They take plain numbers, never a config."""

NORM_EPS = 1e-5  # of every RMSNorm in the decoder, as mamba_ssm's
PRECISIONS = ("fp32", "auto", "bf16", "int8")  # of `layers.coarse_linear.use_precision`
