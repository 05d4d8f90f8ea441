"""What merging a hot task gains: never, always, by the policy, over shares and in bursts."""
