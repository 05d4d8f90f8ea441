"""Training for multigraft: recipe -> data -> method -> trainer -> evaluate -> export -> publish."""
