"""The live engine: speech in blocks of any size in, frames out as they become due."""
