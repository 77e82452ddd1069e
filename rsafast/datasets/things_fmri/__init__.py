"""THINGS-fMRI: responses of three subjects to single presentations of object images.

In each of 12 sessions a subject saw 720 training images, each once in the whole study, and 100 test
images, the same in every session. Published is one response (beta) per trial and voxel, in three
layouts (Hebart et al. 2023, doi 10.7554/eLife.82580; OpenNeuro ds004192):

table : ``betas_csv/sub-01_{ResponseData.h5,StimulusMetadata.csv,VoxelMetadata.csv}``
ica : ``ICA-betas/sub-01/voxel-metadata/sub-01_task-things_{voxel-wise-responses.h5,
    stimulus-metadata.tsv,voxel-metadata.tsv}``, the same tables from other preprocessing
volume : ``betas_vol/sub-01/ses-things01/sub-01_ses-things01_run-01_{betas.nii.gz,conditions.tsv}``
    with ``brainmasks/sub-01_space-T1w_brainmask.nii.gz`` and the two tables of ``betas_csv``
"""

from rsafast.datasets.things_fmri.reader import read_things_fmri, things_fmri_trials

__all__ = ["read_things_fmri", "things_fmri_trials"]
