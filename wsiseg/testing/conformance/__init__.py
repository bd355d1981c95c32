"""What every implementation of a contract must pass, as plain functions that need no test framework.

One module for each contract. An implementation conforms when each function of the module returns for it.
"""
