"""DOCUMENTS -> FEWER, CLEANER DOCUMENTS, on one machine (pipeline.py) or on many (beam.py).

The stages, in this order: normalize, length, language, quality, exact duplicates, near duplicates,
contamination. Both ways call the same pure functions, and no rule depends on the order of the
documents, so both keep the same documents and give the same report (report.py).
"""
