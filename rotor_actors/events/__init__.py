"""Events and signals: who waits for what, who is started or cancelled by what, and how it reaches them."""
