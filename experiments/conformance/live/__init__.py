<<<<<<< HEAD
"""Losses of installed libraries, each called in an environment of its own."""
=======
"""Rows of the conformance matrix that run the installed library."""
>>>>>>> 393d319 (Run TRL's trainers as black boxes on a table policy, and train a GPT-2 to where the check says that it ends)
