"""DOCUMENTS -> FEWER, CLEANER DOCUMENTS, on one machine (pipeline.py) or on many (beam.py).

Stages, in this order: normalize, length, language, quality, exact duplicates, near duplicates,
contamination. Both ways call the same pure functions, and no rule looks at the order in which
documents come, so both keep the same documents and give the same report (report.py).
"""
