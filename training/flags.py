"""Flags of main.py that set one field of the recipe; they are listed without numpy or torch."""

FIELD_FLAGS = {  # flag, named as the field of TrainConfig that it sets -> its help
    "epochs": "passes over the training data",
    "batch_size": "clips per batch, on each process",
    "steps_per_epoch": "batches per epoch; 0 for every clip once",
    "learning_rate": "of everything but the speech encoder",
    "encoder_learning_rate": "of the speech encoder",
    "closure_gain": "extra loss weight of the lips in frames in which they touch",
    "seed": "of initial weights, crops and order of clips",
}
