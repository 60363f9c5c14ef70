"""Hooks for real backends: one shell script for each way to run models, which `llmux init` copies to the user.

The scripts are POSIX sh and take ``wake``, ``sleep`` or ``alive`` as their first word. Nothing here runs them.
"""
