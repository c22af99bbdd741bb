"""Operations worth fusing: a folder each, with the definition in plain PyTorch and the faster forms that match it."""
