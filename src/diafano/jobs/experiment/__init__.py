"""Experiments: the same picture with other settings, side by side; and many prompts, one after the other.

axes.py       what varies, and the values that it takes; a file of prompts
running.py    each combination drawn, unless its folder has it already
sheet.py      all of them as one labelled picture
table.py      all of them as a table
"""
