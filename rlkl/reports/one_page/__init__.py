"""Write a one-page report on a finished run or sweep, as HTML or PDF (`rlkl report`)."""
