"""Train the small models that ship in `assets/shapes`: a teacher and a latent diffusion model.

    python -m oal_lite.pretrain teacher
    python -m oal_lite.pretrain diffusion      # both of its halves: autoencoder, then unet

With `--preset cifar10 --data-root FOLDER --out models/cifar10` the same is trained, wider and
longer, on CIFAR-10 alone, so that no model from outside has a part in a result. An interrupted
training goes on where it stopped when the same command is given again.

The diffusion model is a real Stable Diffusion pipeline at 1/200 of the size: CLIP tokenizer and
text encoder, autoencoder (VAE), UNet with cross-attention, scheduler. It is loaded by
`StableDiffusionPipeline.from_pretrained` like the large one.

One thing is better than in the released OAL: **the teacher's feature space and the token space
are the same space**. The embedding of a class word is the scaled mean of the teacher's features of
that class, and half of the time the word is replaced by the scaled feature of the very image to be
generated. So the model has learnt what a feature in the place of a word means, and an outlier
feature in that place is a question that it understands. DREAM-OOD (Du et al., NeurIPS 2023)
trains such an alignment; the released OAL puts a ViT feature where CLIP expects a word.
"""
