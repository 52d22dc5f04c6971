"""The page with figures: its sentences, its figures as plotly's plain data, and its templates.

jinja2 and plotly are imported where they are needed. Torch-free.
"""
