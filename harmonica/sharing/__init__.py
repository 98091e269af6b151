"""Plans that are shared: what a file is, in words and as a card; hub repositories; the plans of the shipped models.

It is no part of `harmonica/plan`, whose code is in the name of every image: the wording of a card must not renew them.
"""
