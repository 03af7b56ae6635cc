"""Evaluation: does a picture show what its prompt says? In the manner of GenEval (Ghosh et al. 2023).

scoring.py          held-out prompts -> pictures -> verdicts -> score
rules.py            what a picture must show, task by task
judge.py            what the judge sees in a picture
detector.py         its network
accuracy.py         how far it can be trusted
gallery.py          all pictures with their verdicts
judge_pictures.py, judge_stage.py    how it was trained
"""
