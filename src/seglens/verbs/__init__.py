"""The verbs of the command ``seglens``: no logic. Heavy imports happen inside the verb that needs them."""
