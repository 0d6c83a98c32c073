"""Bit budgets of published methods, by formula, and the sizes that their authors published. No torch."""
