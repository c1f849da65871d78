"""A release: two archives of the same files, with weights, logs, curves and a demo.

demo.py is copied into the archives. It imports torch and transformers, and nothing from this
package.
"""
