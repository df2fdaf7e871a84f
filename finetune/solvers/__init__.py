"""Classifiers on fixed features: logistic regression, ridge regression, nearest neighbors."""
