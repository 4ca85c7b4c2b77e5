"""The page on which the agent is seen and steered, and recorded runs are looked at again."""
