"""Who calls: keys as the server knows them, and what each may use."""
