"""Classify long lists of videos in several processes, and keep what is done"""
