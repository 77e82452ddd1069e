"""The Natural Scenes Dataset: betas, regions and design of one subject, from the published files.

Allen et al. (2022), doi 10.1038/s41593-021-00962-x; the files are described in the NSD Data Manual
(cvnlab.slite.page).
"""

from rsafast.datasets.nsd.design import nsd_design
from rsafast.datasets.nsd.reader import read_nsd

__all__ = ["nsd_design", "read_nsd"]
