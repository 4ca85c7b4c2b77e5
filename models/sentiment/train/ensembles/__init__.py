"""Fitting of ensembles: members' scores, weights, what each member is worth. Needs no training library."""
