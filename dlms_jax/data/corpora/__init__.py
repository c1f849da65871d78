"""RAW TEXT -> DOCUMENTS: files, the standard library, the synthetic language, public corpora."""
